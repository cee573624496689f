//! Who may talk to whom: pure functions of a connection and the mesh's
//! settings. No I/O, no lock, no clock, no logging.
//!
//! Permission is a value. Whatever connects onward takes a permit by reference,
//! and only this module can make one, so no path through the proxy can forget to
//! ask. The same functions judge live connections again when the policy changes.

use crate::identity::{SpiffeId, TrustDomain};
use crate::model::{MeshSettings, MtlsMode};

/// Leave to open a stream to one workload, over mutual TLS and to no other
/// identity than [`TunnelPermit::expected`].
#[derive(Debug)]
#[must_use]
pub struct TunnelPermit {
    expected: SpiffeId,
}

/// Leave to connect without mutual TLS to a destination outside the mesh.
#[derive(Debug)]
#[must_use]
pub struct PlainPermit(());

/// Leave to hand an inbound connection to the application.
#[derive(Debug)]
#[must_use]
pub struct InboundPermit(());

impl TunnelPermit {
    /// The only identity that the other end may present.
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }
}

/// Where an outbound connection is going, as far as policy cares.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A workload in the mesh, with the identity it must prove.
    Meshed(&'a SpiffeId),
    /// The connecting pod itself, by way of a Service: never leaves the pod.
    SamePod,
    /// A workload or address that is not in the mesh.
    OutsideMesh,
}

/// Leave for an outbound connection, by the only transport it may take.
#[derive(Debug)]
pub enum OutboundPermit {
    /// Over mutual TLS.
    Tunnel(TunnelPermit),
    /// As plain TCP.
    Plain(PlainPermit),
}

/// Who opened an inbound connection.
#[derive(Clone, Copy, Debug)]
pub enum Peer<'a> {
    /// A peer without an identity, over plain TCP.
    Plaintext,
    /// A peer that proved this identity in the TLS handshake.
    Authenticated(&'a SpiffeId),
}

/// Why a connection is not permitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The workload is STRICT and the peer came without mutual TLS.
    #[error("the workload takes mutual TLS only (STRICT) and the peer sent plaintext")]
    PlaintextInStrict,
    /// The peer's identity is of a trust domain for which nothing vouches here.
    #[error(
        "the peer's trust domain {presented} is neither this mesh's ({own}) nor one of the MeshConfig's caCertificates"
    )]
    ForeignTrustDomain {
        /// The trust domain in the peer's certificate.
        presented: TrustDomain,
        /// This mesh's.
        own: TrustDomain,
    },
    /// Part of the configuration could not be read, so an address that seems to
    /// be outside the mesh may belong to a workload that asked for encryption.
    #[error(
        "the configuration is not complete, so whether the destination is in the mesh is not known"
    )]
    DestinationUnknown,
}

/// Decides an outbound connection. `complete` says whether the configuration was
/// read in full: while it is not, only what is known to be in the mesh may be
/// reached.
///
/// # Errors
/// The reason for which the connection may not be opened.
pub fn outbound(target: Target<'_>, complete: bool) -> Result<OutboundPermit, Denial> {
    match target {
        Target::Meshed(expected) => {
            let expected = expected.clone();
            Ok(OutboundPermit::Tunnel(TunnelPermit { expected }))
        }
        Target::SamePod => Ok(OutboundPermit::Plain(PlainPermit(()))),
        Target::OutsideMesh if complete => Ok(OutboundPermit::Plain(PlainPermit(()))),
        Target::OutsideMesh => Err(Denial::DestinationUnknown),
    }
}

/// Decides an inbound connection to a workload of `mesh`: who proved an identity
/// of the mesh or of one that it trusts is let in, others as the mode says.
///
/// # Errors
/// The reason for which the connection may not reach the application.
pub fn inbound(peer: Peer<'_>, mesh: &MeshSettings) -> Result<InboundPermit, Denial> {
    match (peer, mesh.inbound_mode) {
        (Peer::Authenticated(id), _) if mesh.trusts(id.trust_domain()) => Ok(InboundPermit(())),
        (Peer::Authenticated(id), _) => Err(Denial::ForeignTrustDomain {
            presented: id.trust_domain().clone(),
            own: mesh.trust_domain.clone(),
        }),
        (Peer::Plaintext, MtlsMode::Permissive) => Ok(InboundPermit(())),
        (Peer::Plaintext, MtlsMode::Strict) => Err(Denial::PlaintextInStrict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{DomainTrust, Revocation, TrustBundle};

    fn id(uri: &str) -> SpiffeId {
        uri.parse().unwrap()
    }

    #[test]
    fn strict_takes_nobody_without_an_identity_of_a_trusted_domain() {
        let domain = |name| TrustDomain::new(name).unwrap();
        let partner = DomainTrust {
            bundle: TrustBundle::new(domain("partner.example"), Vec::new()),
            revocation: Revocation::NotUsed,
        };
        let settings = |inbound_mode| MeshSettings {
            inbound_mode,
            foreign: vec![partner.clone()],
            ..MeshSettings::default()
        };
        let friend = id("spiffe://cluster.local/ns/shop/sa/web");
        let foreign = id("spiffe://other.example/ns/shop/sa/web");
        let trusted = id("spiffe://partner.example/ns/shop/sa/web");
        let cases = [
            (Peer::Plaintext, MtlsMode::Strict, false),
            (Peer::Plaintext, MtlsMode::Permissive, true),
            (Peer::Authenticated(&friend), MtlsMode::Strict, true),
            (Peer::Authenticated(&friend), MtlsMode::Permissive, true),
            (Peer::Authenticated(&trusted), MtlsMode::Strict, true),
            (Peer::Authenticated(&trusted), MtlsMode::Permissive, true),
            (Peer::Authenticated(&foreign), MtlsMode::Strict, false),
            (Peer::Authenticated(&foreign), MtlsMode::Permissive, false),
        ];
        for (peer, mode, allowed) in cases {
            let verdict = inbound(peer, &settings(mode));
            assert_eq!(
                verdict.is_ok(),
                allowed,
                "{peer:?} in {mode:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_workload_in_the_mesh_is_never_reached_as_plain_tcp() {
        let web = id("spiffe://cluster.local/ns/shop/sa/web");
        for complete in [true, false] {
            let permit = outbound(Target::Meshed(&web), complete).unwrap();
            let OutboundPermit::Tunnel(permit) = permit else {
                panic!("a plain permit for a meshed workload");
            };
            assert_eq!(permit.expected(), &web);
        }
    }

    #[test]
    fn an_incomplete_configuration_denies_what_it_does_not_know() {
        assert!(outbound(Target::OutsideMesh, true).is_ok());
        let denied = outbound(Target::OutsideMesh, false).unwrap_err();
        assert_eq!(denied, Denial::DestinationUnknown);
    }
}
