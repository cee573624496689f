//! An open connection in the form in which the command line shows it.

use serde::{Deserialize, Serialize};

use super::labels::Direction;
use super::live::LiveConnection;

/// One open connection. Addresses are `ip:port`, with IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Its name, sixteen hexadecimal digits; the access log's `connection`.
    pub id: String,
    /// Seen from the pod.
    pub direction: Direction,
    /// The local pod, `namespace/name`.
    pub pod: String,
    /// The peer's SPIFFE URI, proven by its certificate.
    pub peer_identity: Option<String>,
    /// The peer's pod as the configuration knows it, `namespace/name`.
    pub peer: Option<String>,
    /// Where it comes from.
    pub source: String,
    /// Where it was opened to.
    pub destination: String,
    /// Where the agent connected to in turn.
    pub upstream: Option<String>,
    /// The client that the application is told of, where that is not `source`.
    pub client: Option<String>,
    /// The Service that `destination` belongs to, `namespace/name`.
    pub service: Option<String>,
    /// `mutual_tls` or `plaintext`; absent while it is being made.
    pub security: Option<String>,
    /// `TLSv1.3`.
    pub tls_version: Option<String>,
    /// IANA name of the cipher suite.
    pub tls_suite: Option<String>,
    /// Bytes from the pod's application to its peer, so far.
    pub bytes_sent: u64,
    /// Bytes from the peer to the pod's application, so far.
    pub bytes_received: u64,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
}

impl From<&LiveConnection> for ConnectionInfo {
    fn from(connection: &LiveConnection) -> Self {
        let details = connection.details();
        let totals = connection.meter().totals();
        let tls = details.security.and_then(super::Security::tls);
        Self {
            id: connection.id().to_string(),
            direction: connection.direction(),
            pod: connection.pod().to_string(),
            peer_identity: details.peer_identity.as_deref().map(str::to_owned),
            peer: details.peer.as_ref().map(ToString::to_string),
            source: connection.source().to_string(),
            destination: connection.destination().to_string(),
            upstream: details.upstream.as_ref().map(ToString::to_string),
            client: details.client.as_ref().map(ToString::to_string),
            service: details.service.as_deref().map(str::to_owned),
            security: details
                .security
                .map(|security| security.as_str().to_owned()),
            tls_version: tls.map(|(version, _)| version.to_owned()),
            tls_suite: tls.map(|(_, suite)| suite.to_owned()),
            bytes_sent: totals.sent,
            bytes_received: totals.received,
            age_ms: u64::try_from(connection.opened().elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
