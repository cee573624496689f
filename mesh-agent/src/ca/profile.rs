//! The certificates that an authority makes: what is in each, and for how long it
//! is valid. Built from nothing but a public key and a name.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::ServerName;
use zeroize::{Zeroize, Zeroizing};

use super::MakeError;
use crate::identity::{SpiffeId, TrustDomain};
use crate::tls::fill_random;

/// Life of a root made here. Long, because replacing it touches every node.
pub(super) const ROOT_LIFETIME: Duration = days(10 * 365);

/// Life of an intermediate. Short enough that its replacement is a habit, which
/// the authority does by itself at half of it where the root's key is at hand;
/// long enough that a person with an off-line root does it once a year.
pub(super) const INTERMEDIATE_LIFETIME: Duration = days(365);

/// Longest life of a workload's certificate, and the usual one: Istio's default.
pub(super) const LEAF_LIFETIME: Duration = days(1);

/// Shortest life that is worth a signature.
pub(super) const LEAF_LEAST: Duration = Duration::from_secs(60);

/// How far a certificate's validity starts in the past, for peers whose clock
/// is behind ours.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60);

const fn days(number: u64) -> Duration {
    Duration::from_secs(number * 24 * 3600)
}

/// A key of the authority's own: ECDSA P-256.
pub(super) fn new_key() -> Result<KeyPair, MakeError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A key in PEM; the key itself is wiped.
pub(super) fn key_to_pem(mut key: KeyPair) -> Zeroizing<String> {
    let text = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    text
}

/// A root, with room for one intermediate below it.
pub(super) fn root(domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, MakeError> {
    let mut params = authority("root", domain, 1)?;
    valid(&mut params, now, now + ROOT_LIFETIME);
    Ok(params)
}

/// An intermediate below a root that ends at `root_end`.
pub(super) fn intermediate(
    domain: &TrustDomain,
    now: SystemTime,
    root_end: SystemTime,
) -> Result<CertificateParams, MakeError> {
    let mut params = authority("intermediate", domain, 0)?;
    valid(
        &mut params,
        now,
        (now + INTERMEDIATE_LIFETIME).min(root_end),
    );
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What is asked for in a request for an intermediate: whoever signs it gives the
/// serial number and the validity.
pub(super) fn intermediate_request(domain: &TrustDomain) -> Result<CertificateParams, MakeError> {
    let mut params = authority("intermediate", domain, 0)?;
    params.serial_number = None;
    Ok(params)
}

/// A workload's certificate, for both sides of TLS.
pub(super) fn workload(
    id: &SpiffeId,
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, MakeError> {
    leaf(vec![uri(&id.to_string())?], now, end)
}

/// The certificate of the authority's own TLS server.
pub(super) fn server(
    names: &[ServerName<'_>],
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, MakeError> {
    let name = |name: &ServerName<'_>| match name {
        ServerName::IpAddress(address) => Ok(SanType::IpAddress((*address).into())),
        other => Ok(SanType::DnsName(other.to_str().as_ref().try_into()?)),
    };
    let names = names.iter().map(name).collect::<Result<_, MakeError>>()?;
    let mut params = leaf(names, now, end)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn leaf(
    names: Vec<SanType>,
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, MakeError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(random_serial()?);
    params.subject_alt_names = names;
    valid(&mut params, now, end);
    params.is_ca = IsCa::ExplicitNoCa;
    // Not keyEncipherment, which is for RSA key exchange.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A certificate authority's certificate, named as X.509-SVID §3 wants a signing
/// certificate: its URI is the trust domain's. A name of its own for each, so that
/// a peer of another mesh fails for want of an issuer and not on a bad signature.
fn authority(what: &str, domain: &TrustDomain, below: u8) -> Result<CertificateParams, MakeError> {
    let serial = random_serial()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Isthmus");
    name.push(DnType::CommonName, format!("Isthmus {what} {serial}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![uri(&uri_of(domain))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The URI of a trust domain's authorities.
pub(super) fn uri_of(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

fn uri(text: &str) -> Result<SanType, MakeError> {
    Ok(SanType::URI(text.try_into()?))
}

fn valid(params: &mut CertificateParams, now: SystemTime, end: SystemTime) {
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = end.into();
}

/// A random serial number of 126 bits: unique without a register, positive and
/// always 16 bytes long (RFC 5280 §4.1.2.2 allows 20).
fn random_serial() -> Result<SerialNumber, MakeError> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes).map_err(|_| MakeError::NoRandomness)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
