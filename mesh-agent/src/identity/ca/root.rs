//! The root certificate: making one, and checking the one that is there.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use zeroize::{Zeroize, Zeroizing};

use super::disk::{Files, Pem};
use super::{CLOCK_SKEW, CaError, SigningError, random_serial, uri};
use crate::identity::{TrustDomain, leaf};

/// Life of the root. Long, because replacing it touches every node.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Makes a root for a trust domain, named as X.509-SVID §3 wants a signing
/// certificate: its URI is the trust domain's.
pub(super) fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Pem, SigningError> {
    let serial = random_serial()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Isthmus");
    // Different roots get different names, so that a peer of another mesh fails
    // for want of an issuer and not on a bad signature.
    name.push(DnType::CommonName, format!("Isthmus root {serial}"));

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![uri(&uri_of(trust_domain))?];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LIFETIME).into();
    // Room for one intermediate below the root.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let signed = params.self_signed(&key);
    let key_pem = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    Ok(Pem {
        certificate: signed?.pem(),
        key: key_pem,
    })
}

/// Checks that the stored root can sign for this mesh now; tells when it ends.
pub(super) fn check(
    root: &CertificateDer<'_>,
    key: &KeyPair,
    files: &Files,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<SystemTime, CaError> {
    let path = &files.certificate;
    let unreadable = |expected| CaError::Unreadable {
        path: path.clone(),
        expected,
    };
    let certificate = leaf::parse(root).map_err(|_| unreadable("an X.509 certificate"))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(CaError::Mismatch {
            certificate: path.clone(),
            key: files.key.clone(),
        });
    }
    if !certificate.is_ca() {
        return Err(unreadable("a CA certificate"));
    }
    let found = leaf::only_uri(&certificate);
    if found.as_deref() != Ok(uri_of(trust_domain).as_str()) {
        return Err(CaError::OtherTrustDomain {
            path: path.clone(),
            found: found.map_or_else(|why| why.to_string(), str::to_owned),
            configured: trust_domain.clone(),
        });
    }
    let validity = certificate.validity();
    let time = |asn1| leaf::system_time(asn1).map_err(|_| unreadable("a certificate of our time"));
    let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
    if now < not_before || now > not_after {
        return Err(CaError::OutOfValidity {
            path: path.clone(),
            not_before,
            not_after,
        });
    }
    Ok(not_after)
}

fn uri_of(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}
