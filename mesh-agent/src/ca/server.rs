//! The authority on the network: gRPC over TLS, for agents of ours and for every other
//! client of Istio's certificate API. `mesh-agent ca serve` runs one.
//!
//! What strangers can make it hold is bounded: connections, the time for a handshake,
//! the time until a connection has proved itself, requests at once, their size and
//! their time, and the age of a connection.

mod certificate;
mod connection;
mod grpc;
mod issue;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::authorize::Authorizer;
use super::{Authority, CaError, SignError};
use crate::handshakes::Handshakes;
use crate::identity::Clock;
use certificate::OwnCertificate;
use connection::Connections;
use grpc::Service;
use trust::Publisher;

/// Connections at once on which a known caller called: room for a cluster of some thousand
/// nodes with one each.
const MAX_KNOWN: usize = 8192;

/// Connections at once on which nobody has proved anything yet: room for half as many agents
/// that connect in the same moment. Which of them are dropped for more, [`Handshakes`] decides.
const MAX_UNPROVED: usize = 4096;

/// How often the log says how many connections were dropped, while any are.
const DROPPED_REPORT: Duration = Duration::from_secs(10);

/// Wait after the system refused to accept a connection, as when descriptors are used
/// up: trying again at once would take a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for open calls to end after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How often the authority is tended: revocation lists are signed again long before
/// they lapse.
const TEND_INTERVAL: Duration = Duration::from_secs(60);

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The names under which clients reach it, for its own certificate.
    pub names: Vec<ServerName<'static>>,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}; give another address with --listen")]
    Listen {
        /// As it was given.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Clients compare the certificate with the name they dialled.
    #[error(
        "no name for the server's certificate: give every DNS name or address that agents dial with --name"
    )]
    NoName,
    /// The authority's directory cannot be used.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The authority did not certify its own server.
    #[error("the authority did not certify its own server: {0}")]
    Certificate(#[from] SignError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the authority's server: {0}")]
    Tls(#[from] rustls::Error),
    /// No key could be made.
    #[error("cannot make a key for the authority's server: {0}")]
    Key(#[from] rcgen::Error),
    /// The task of the authority ended early, as at shutdown.
    #[error("the authority's task was abandoned: the process is shutting down")]
    Abandoned,
}

/// Connections at once. Tests set smaller ones.
#[derive(Clone, Copy, Debug)]
struct Limits {
    unproved: usize,
    known: usize,
}

/// A server that listens, and will answer once it is [run](Self::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    service: Arc<Service>,
    certificate: Arc<OwnCertificate>,
    publisher: Publisher,
    authority: Arc<Authority>,
    limits: Limits,
}

impl Server {
    /// Listens, and gets the server's own certificate from the authority.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn bind(
        settings: Settings,
        authority: Arc<Authority>,
        authorizer: Arc<dyn Authorizer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        if settings.names.is_empty() {
            return Err(ServeError::NoName);
        }
        let refused = |source| ServeError::Listen {
            address: settings.listen,
            source,
        };
        let listener = TcpListener::bind(settings.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let publisher = Publisher::start(Arc::clone(&authority)).await?;
        let certificate =
            OwnCertificate::obtain(Arc::clone(&authority), settings.names, clock).await?;
        let tls = TlsAcceptor::from(certificate.tls_config()?);
        let service = Service::new(Arc::clone(&authority), authorizer, publisher.subscribe());
        Ok(Self {
            listener,
            address,
            tls,
            service: Arc::new(service),
            certificate,
            publisher,
            authority,
            limits: Limits {
                unproved: MAX_UNPROVED,
                known: MAX_KNOWN,
            },
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the serial number of the server's own certificate, now and whenever it
    /// is renewed.
    pub fn certificate_serial(&self) -> watch::Receiver<String> {
        self.certificate.serial()
    }

    /// Answers until `stop` says so or is dropped, then lets open calls end.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut upkeep = JoinSet::new();
        upkeep.spawn(self.certificate.keep_fresh(self.publisher.subscribe()));
        upkeep.spawn(tend(self.authority));
        upkeep.spawn(self.publisher.follow());
        let (drain, draining) = watch::channel(false);
        let connections = Arc::new(Connections {
            tls: self.tls,
            service: self.service,
            unproved: Handshakes::new(self.limits.unproved),
            known: Handshakes::new(self.limits.known),
            draining,
        });
        upkeep.spawn(report_dropped(Arc::clone(&connections)));
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                // Takes those that ended out of the set.
                Some(_) = open.join_next() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let connections = Arc::clone(&connections);
                    let slot = connections.unproved.admit(peer.ip().to_canonical());
                    open.spawn(async move { connections.serve(socket, peer, slot).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        drain.send_replace(true);
        let ended = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            tracing::warn!(
                "open calls did not end within {} s, they are cut",
                DRAIN.as_secs()
            );
        }
    }
}

/// Says in the log how many connections were dropped for others: one line for all of them.
async fn report_dropped(connections: Arc<Connections>) {
    let mut told = (0, 0);
    loop {
        tokio::time::sleep(DROPPED_REPORT).await;
        let now = (connections.unproved.dropped(), connections.known.dropped());
        if now != told {
            tracing::warn!(
                unproved = now.0 - told.0,
                known = now.1 - told.1,
                "connections were dropped to make room: those of the sources that had most, and \
                 silent ones"
            );
            told = now;
        }
    }
}

async fn tend(authority: Arc<Authority>) {
    loop {
        tokio::time::sleep(TEND_INTERVAL).await;
        let done = blocking(&authority, Authority::tend).await;
        if let Err(error) = done.and_then(|done| done.map_err(Into::into)) {
            tracing::error!(%error, "the authority could not be tended: its revocation lists may lapse");
        }
    }
}

/// Calls the authority where it may block.
async fn blocking<T: Send + 'static>(
    authority: &Arc<Authority>,
    call: impl FnOnce(&Authority) -> T + Send + 'static,
) -> Result<T, ServeError> {
    let authority = Arc::clone(authority);
    tokio::task::spawn_blocking(move || call(&authority))
        .await
        .map_err(|_| ServeError::Abandoned)
}

#[cfg(test)]
mod tests;
