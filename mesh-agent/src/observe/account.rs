//! One connection, open or ended, with all that was kept of it: what an explanation of
//! it starts from.

use std::net::SocketAddr;
use std::sync::Arc;

use super::access::Record;
use super::labels::{Direction, PodLabels, Security};
use super::live::{ConnectionId, Details, LiveConnection};
use super::reason::Outcome;
use super::ruling::Ruling;

/// What was kept of a connection.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name in logs and listings.
    pub id: ConnectionId,
    /// Which way it goes, seen from the pod.
    pub direction: Direction,
    /// The local pod.
    pub pod: Arc<PodLabels>,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it was opened to.
    pub destination: SocketAddr,
    /// The client that the application is told of, where that is not the source.
    pub client: Option<SocketAddr>,
    /// The peer's SPIFFE URI, where a handshake proved one.
    pub peer_identity: Option<Arc<str>>,
    /// How the bytes travel; `None` if it did not come to that.
    pub security: Option<Security>,
    /// What policy said; `None` if it was not asked, or goes outside the mesh.
    pub ruling: Option<Ruling>,
    /// How it ended; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// What exactly happened.
    pub detail: Option<Arc<str>>,
}

impl Account {
    pub(super) fn open(connection: &LiveConnection) -> Self {
        Self::new(connection, connection.details())
    }

    pub(super) fn ended(record: &Record) -> Self {
        let connection = &*record.connection;
        Self {
            outcome: Some(record.outcome),
            detail: record.detail.clone(),
            ..Self::new(connection, connection.details())
        }
    }

    fn new(connection: &LiveConnection, details: Details) -> Self {
        Self {
            id: connection.id(),
            direction: connection.direction(),
            pod: Arc::clone(connection.pod()),
            source: connection.source(),
            destination: connection.destination(),
            client: details.client,
            peer_identity: details.peer_identity,
            security: details.security,
            ruling: details.ruling,
            outcome: None,
            detail: None,
        }
    }
}
