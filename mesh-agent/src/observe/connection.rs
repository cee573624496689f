//! One connection's account: who took part, how many bytes, how it ended. The proxy
//! opens one for every connection it accepts and finishes it exactly once.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Observer;
use super::access::Record;
use super::labels::{Direction, PodLabels, Security};
use super::live::{ConnectionId, LiveConnection};
use super::meter::Meter;
use super::reason::{Outcome, Reason};
use super::ruling::Ruling;
use crate::policy::Decision;
use crate::tls::Session;

/// What is known of a connection when it is accepted.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Which way it goes.
    pub direction: Direction,
    /// The local pod it belongs to.
    pub pod: Arc<PodLabels>,
    /// The address it comes from.
    pub source: SocketAddr,
    /// The address that it was opened to: outbound the original destination, inbound the pod's.
    pub destination: SocketAddr,
}

/// An open connection's account. Ending it with [`Connection::finish`] writes its one
/// access-log line and moves the counters; dropping it unfinished (a panic, a lost task)
/// does the same with [`Reason::Aborted`].
#[derive(Debug)]
pub struct Connection {
    live: Arc<LiveConnection>,
    observer: Arc<Observer>,
    established: bool,
    finished: bool,
}

impl Connection {
    pub(super) fn new(live: Arc<LiveConnection>, observer: Arc<Observer>) -> Self {
        Self {
            live,
            observer,
            established: false,
            finished: false,
        }
    }

    /// Its name in logs and listings.
    pub fn id(&self) -> ConnectionId {
        self.live.id()
    }

    /// The counters that the relay adds to.
    pub fn meter(&self) -> &Meter {
        self.live.meter()
    }

    /// The peer's SPIFFE URI, proven by a handshake.
    pub fn set_peer_identity(&self, identity: Arc<str>) {
        self.live.lock().peer_identity = Some(identity);
    }

    /// The peer's workload as the configuration knows it (by address: no proof of anything).
    pub fn set_peer(&self, peer: Arc<PodLabels>) {
        self.live.lock().peer = Some(peer);
    }

    /// The Service that the destination belongs to, `namespace/name`.
    pub fn set_service(&self, service: Arc<str>) {
        self.live.lock().service = Some(service);
    }

    /// The address that the agent connects to in turn. What was known of an earlier one's
    /// owner is not of this one's.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        let mut details = self.live.lock();
        details.upstream = Some(upstream);
        details.peer = None;
        details.peer_identity = None;
        details.ruling = None;
    }

    /// The endpoint that was tried failed for this `reason`, and another one is tried.
    pub fn retried(&self, reason: Reason) {
        self.live.lock().retries += 1;
        self.observer.retried(reason);
    }

    /// The client that the application is told of, when it is not the source.
    pub fn set_client(&self, client: SocketAddr) {
        self.live.lock().client = Some(client);
    }

    /// What policy said of it; the last word counts.
    pub fn judged<P>(&self, decision: &Decision<P>) {
        let ruling = Ruling::of(decision);
        self.live.lock().ruling = Some(ruling);
    }

    /// How the bytes travel.
    pub fn set_security(&self, security: Security) {
        self.live.lock().security = Some(security);
    }

    /// Tells which tunnel carries it: one that this handshake secured.
    pub fn set_session(&self, session: Arc<Session>) {
        let mut details = self.live.lock();
        details.security = Some(Security::MutualTls {
            version: session.version,
            suite: session.suite,
        });
        details.session = Some(session);
    }

    /// Bytes are about to flow: counts the connection as opened, with the labels known now.
    /// What is set later reaches the log and the listing but no longer the metrics.
    pub fn established(&mut self) {
        self.established = true;
        self.observer.traffic.opened(&self.live);
    }

    /// Completes once the agent wants the connection ended; [`Connection::cut_reason`]
    /// then says why. Holds no borrow, so that it can run beside the relay.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let live = Arc::clone(&self.live);
        async move { live.wait_for_cut().await }
    }

    /// What the table of open connections knows of it.
    pub fn live(&self) -> &LiveConnection {
        &self.live
    }

    /// Why the connection is to be ended, once it is.
    pub fn cut_reason(&self) -> Option<Reason> {
        self.live.cut_reason()
    }

    /// Ends the account: one line in the access log, and the counters.
    pub fn finish(mut self, outcome: Outcome) {
        self.close(outcome, None);
    }

    /// [`Connection::finish`] with a word on what exactly happened, for the log alone:
    /// an errno, the identities expected and presented, what was malformed.
    pub fn finish_with(mut self, outcome: Outcome, detail: impl fmt::Display) {
        self.close(outcome, Some(bounded(detail)));
    }

    fn close(&mut self, outcome: Outcome, detail: Option<String>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let duration = self.live.opened().elapsed();
        let record = Record {
            connection: Arc::clone(&self.live),
            outcome,
            detail: detail.map(Arc::from),
            duration,
        };
        self.observer.ended(&record, self.established);
        let is_refusal = !self.established && !matches!(outcome, Outcome::Ok);
        self.observer.access.write(record, is_refusal);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close(Outcome::Failed(Reason::Aborted), None);
    }
}

/// Bytes of detail that a log line carries at most: a peer has a hand in some of them.
const MAX_DETAIL: usize = 512;

fn bounded(detail: impl fmt::Display) -> String {
    let mut text = detail.to_string();
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL));
        text.push('…');
    }
    text
}
