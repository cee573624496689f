//! The one decision about a peer's certificate: whose it is, whether the roots of
//! that workload's own trust domain vouch for it, and whether it was revoked. Pure:
//! [`super::verify`] asks it in each handshake, [`super::Session::still_trusted`]
//! again when trust changes, and [`super::config`] about our own certificates.

use std::cell::OnceCell;
use std::time::UNIX_EPOCH;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, OtherError};
use webpki::{EndEntityCert, KeyUsage, RevocationOptions, VerifiedPath};
use webpki::{ExpirationPolicy, RevocationCheckDepth, RevocationOptionsBuilder};
use x509_parser::prelude::X509Certificate;

use super::failure::RevocationFault;
use super::{HandshakeFailure, Role};
use crate::identity::leaf::{self, Claim};
use crate::identity::{
    Anchors, KeyId, List, Lists, PeerIdentityError, SpiffeId, StaleLists, Trust, TrustDomain,
};

/// What a peer is measured by.
pub(super) struct Measure<'a> {
    pub(super) trust: &'a Trust,
    /// The trust domain of our own certificate.
    pub(super) own: &'a TrustDomain,
    /// The roots of `own` that our certificate brought, in place of the trust's.
    pub(super) own_roots: Option<&'a Anchors>,
    /// `None`: any workload of a trusted domain will do.
    pub(super) expected: Option<&'a SpiffeId>,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// What a peer presents.
pub(super) struct Presented<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// What the peer is in the handshake.
    pub(super) role: Role,
}

/// The identity that the certificate proves at `now`.
///
/// A leaf is judged under the roots of the trust domain that it names, so that a
/// root vouches for its own domain alone, even where two domains share it by name. Below a
/// root that several domains share, an intermediate with a SPIFFE URI vouches for the domain
/// in it alone; one without vouches for each of them.
pub(super) fn judge(
    measure: &Measure<'_>,
    presented: &Presented<'_>,
    now: UnixTime,
) -> Result<SpiffeId, HandshakeFailure> {
    let certificate = leaf::parse(presented.leaf)?;
    let peer = who(measure, &certificate)?;
    let domain = peer.trust_domain();
    let told = measure.trust.anchors(domain).map(AsRef::as_ref);
    let brought = measure.own_roots.filter(|_| domain == measure.own);
    let Some(roots) = brought.or(told) else {
        return Err(HandshakeFailure::ForeignTrustDomain {
            ours: measure.own.clone(),
            presented: peer,
        });
    };
    // What an authority revokes says nothing of certificates that are none of its own,
    // for which the roots that came with ours vouch.
    let vouches = |told| chain(measure, presented, domain, told, &[], now).is_ok();
    let is_its_own = brought.is_none() || told.is_some_and(vouches);
    let lists = measure.trust.lists(domain).map(AsRef::as_ref);
    let lists = lists.filter(|_| is_its_own);
    let of_issuer = candidates(lists, leaf::issuer(&certificate).as_ref());
    chain(measure, presented, domain, roots, &of_issuer, now).map_err(|error| match error {
        ChainError::OtherDomain(issuer) => HandshakeFailure::ForeignIntermediate {
            peer: peer.clone(),
            issuer,
        },
        ChainError::Invalid(error) => {
            let revoked = || leaf::serial(&certificate);
            from_webpki(error, &peer, revoked)
        }
    })?;
    if measure.expected.is_some_and(|expected| *expected != peer) {
        return Err(wrong(measure, peer));
    }
    match unknown(lists, &of_issuer, measure.trust.stale(), now) {
        Some(why) => Err(HandshakeFailure::RevocationUnknown { peer, why }),
        None => Ok(peer),
    }
}

/// Who the certificate says its holder is. A URI alone decides; without one, the
/// DNS names that the configuration gives to workloads.
fn who(
    measure: &Measure<'_>,
    certificate: &X509Certificate<'_>,
) -> Result<SpiffeId, HandshakeFailure> {
    let names = match leaf::claim(certificate)? {
        Claim::Uri(uri) => {
            let id = measure.trust.id_forms().parse(uri);
            return Ok(id.map_err(PeerIdentityError::from)?);
        }
        Claim::Names(names) => names,
    };
    let proofs = measure.trust.names();
    if let Some(expected) = measure.expected {
        if names.iter().any(|name| proofs.prove(expected, name)) {
            return Ok(expected.clone());
        }
        return Err(HandshakeFailure::WrongName {
            expected: expected.clone(),
            presented: leaf::shown(&names),
        });
    }
    let mut holders = proofs.holders(&names);
    match (holders.pop(), &holders[..]) {
        (Some(only), []) => Ok(only),
        (None, _) => Err(PeerIdentityError::NamesOfNobody(leaf::shown(&names)).into()),
        (Some(last), others) => {
            let holders: Vec<_> = others
                .iter()
                .chain([&last])
                .map(ToString::to_string)
                .collect();
            let holders: Vec<_> = holders.iter().map(String::as_str).collect();
            let several = PeerIdentityError::NamesOfSeveral {
                names: leaf::shown(&names),
                holders: leaf::shown(&holders),
            };
            Err(several.into())
        }
    }
}

/// The lists that may speak for certificates of `issuer`.
fn candidates<'a>(lists: Option<&'a Lists>, issuer: Option<&KeyId>) -> Vec<&'a List> {
    match lists {
        Some(Lists::Read { lists, .. }) => lists.iter().filter(|list| list.is_of(issuer)).collect(),
        Some(Lists::NotUsed | Lists::Unreadable(_)) | None => Vec::new(),
    }
}

/// Why no chain leads from the leaf to a root.
enum ChainError {
    /// The only chains go through an intermediate that is bound to another trust domain, by
    /// this SPIFFE URI.
    OtherDomain(String),
    Invalid(webpki::Error),
}

impl From<webpki::Error> for ChainError {
    fn from(error: webpki::Error) -> Self {
        Self::Invalid(error)
    }
}

/// Signatures, validity, purpose, the trust domains of the intermediates, and what a list has
/// revoked, however old it is.
fn chain(
    measure: &Measure<'_>,
    presented: &Presented<'_>,
    domain: &TrustDomain,
    roots: &Anchors,
    lists: &[&List],
    now: UnixTime,
) -> Result<(), ChainError> {
    let usage = match presented.role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let leaf = EndEntityCert::try_from(presented.leaf)?;
    let lists: Vec<_> = lists.iter().map(|list| &list.crl).collect();
    let elsewhere = OnceCell::new();
    // Asked about each path that is valid otherwise: another one may lead through
    // intermediates of the domain.
    let is_of_domain = |path: &VerifiedPath<'_>| {
        let mut issuers = path.intermediate_certificates();
        match issuers.find_map(|issuer| leaf::bound_elsewhere(&issuer.der(), domain)) {
            None => Ok(()),
            Some(uri) => {
                elsewhere.get_or_init(|| uri);
                Err(webpki::Error::NameConstraintViolation)
            }
        }
    };
    let verified = leaf.verify_for_usage(
        measure.algorithms.all,
        roots.all(),
        presented.intermediates,
        now,
        usage,
        revocation(&lists),
        Some(&is_of_domain),
    );
    let verified = verified.map(|_| ());
    match (verified, elsewhere.into_inner()) {
        (Err(webpki::Error::NameConstraintViolation), Some(uri)) => {
            Err(ChainError::OtherDomain(uri))
        }
        (verified, _) => Ok(verified?),
    }
}

/// Workloads' certificates are what an authority revokes; an issuer leaves with its
/// root. Whether the list is out of date is asked afterwards, so that "revoked" wins.
fn revocation<'a>(
    lists: &'a [&'a webpki::CertRevocationList<'a>],
) -> Option<RevocationOptions<'a>> {
    let options = RevocationOptionsBuilder::new(lists).ok()?;
    let options = options
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_expiration_policy(ExpirationPolicy::Ignore);
    Some(options.build())
}

/// Why a certificate that no list revokes may be revoked all the same.
fn unknown(
    lists: Option<&Lists>,
    of_issuer: &[&List],
    stale: StaleLists,
    now: UnixTime,
) -> Option<RevocationFault> {
    let allowed = stale == StaleLists::Allow;
    match lists {
        None | Some(Lists::NotUsed) => None,
        Some(Lists::Unreadable(why)) => {
            (!allowed).then(|| RevocationFault::Unreadable(why.clone()))
        }
        Some(Lists::Read { fault, .. }) if of_issuer.is_empty() => match fault {
            Some(why) => (!allowed).then(|| RevocationFault::Unreadable(why.clone())),
            None => Some(RevocationFault::NoList),
        },
        Some(Lists::Read { .. }) => {
            let now = UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
            let since = of_issuer
                .iter()
                .filter_map(|list| list.stale_since(now))
                .min();
            since.filter(|_| !allowed).map(RevocationFault::Stale)
        }
    }
}

fn wrong(measure: &Measure<'_>, presented: SpiffeId) -> HandshakeFailure {
    // Asked for with an expectation only.
    let expected = measure.expected.unwrap_or(&presented).clone();
    HandshakeFailure::WrongIdentity {
        expected,
        presented,
    }
}

fn from_webpki(
    error: webpki::Error,
    peer: &SpiffeId,
    serial: impl FnOnce() -> String,
) -> HandshakeFailure {
    use webpki::Error as E;
    let unknown = |why| HandshakeFailure::RevocationUnknown {
        peer: peer.clone(),
        why,
    };
    match error {
        // A signature that does not fit is a root of another authority with the
        // name of ours.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => HandshakeFailure::UntrustedRoot,
        E::CertExpired { .. } | E::InvalidCertValidity => HandshakeFailure::Expired,
        E::CertNotValidYet { .. } => HandshakeFailure::NotYetValid,
        E::CertRevoked => HandshakeFailure::Revoked {
            peer: peer.clone(),
            serial: serial(),
        },
        E::UnknownRevocationStatus => unknown(RevocationFault::NoList),
        error @ (E::InvalidCrlSignatureForPublicKey
        | E::IssuerNotCrlSigner
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)) => {
            unknown(RevocationFault::Unreadable(error.to_string().into()))
        }
        E::BadDer | E::BadDerTime | E::TrailingData(_) => {
            HandshakeFailure::Certificate(CertificateError::BadEncoding)
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            HandshakeFailure::Certificate(CertificateError::InvalidPurpose)
        }
        other => {
            let other = OtherError(std::sync::Arc::new(other));
            HandshakeFailure::Certificate(CertificateError::Other(other))
        }
    }
}
