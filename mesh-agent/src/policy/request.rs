//! What policy is asked about: one connection, as the one who asks knows it.

use std::net::IpAddr;

use crate::addr::canonical_ip;
use crate::identity::SpiffeId;
use crate::model::Workload;

/// Who opened an inbound connection.
#[derive(Clone, Copy, Debug)]
pub enum Peer<'a> {
    /// A peer without an identity, over plain TCP.
    Plaintext,
    /// A peer that proved this identity in the TLS handshake.
    Authenticated(&'a SpiffeId),
}

/// A connection that wants to reach a workload. Both ends can write it down alike,
/// so both come to the same verdict.
///
/// The Service that the application asked for is not in it: the destination is not
/// told, and what only the source knows must not decide.
#[derive(Clone, Copy, Debug)]
pub struct InboundRequest<'a> {
    /// The workload that is to be reached.
    pub destination: &'a Workload,
    /// The TCP port of the workload (not of a Service).
    pub port: u16,
    /// The workload's address that is used, in any form.
    pub destination_ip: IpAddr,
    /// Who connects.
    pub peer: Peer<'a>,
    /// The other end of the connection that reached the workload's node (Istio's
    /// `source.ip`, `ipBlocks`), in any form.
    pub peer_ip: IpAddr,
    /// The original client, as far as it is believed (Istio's `remote.ip`,
    /// `remoteIpBlocks`), in any form.
    pub client_ip: IpAddr,
}

/// What a rule sees of a request: addresses in canonical form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) identity: Option<&'a SpiffeId>,
    pub(super) port: u16,
    pub(super) destination_ip: IpAddr,
    pub(super) peer_ip: IpAddr,
    pub(super) client_ip: IpAddr,
}

impl<'a> InboundRequest<'a> {
    pub(super) fn seen(&self) -> Seen<'a> {
        Seen {
            identity: match self.peer {
                Peer::Plaintext => None,
                Peer::Authenticated(identity) => Some(identity),
            },
            port: self.port,
            destination_ip: canonical_ip(self.destination_ip),
            peer_ip: canonical_ip(self.peer_ip),
            client_ip: canonical_ip(self.client_ip),
        }
    }
}
