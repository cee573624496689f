//! Reads what the mesh needs to know from a leaf certificate: its one SPIFFE
//! URI, serial and validity. The bytes come from a peer, so everything about
//! them is doubted. Called by the TLS verifiers, by [`super::Svid`] and by
//! whoever wants the identity behind a finished handshake.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::{IdentityError, SpiffeId};

/// Longest URI that is looked at, in bytes: SPIFFE-ID §2.3 requires support of
/// 2048 and lets longer ones be refused.
const MAX_URI: usize = 2048;

/// Tag of a URI in a GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// Why a certificate identifies no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// The handshake brought no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The bytes are not an X.509 certificate, or an extension is broken.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// No URI among the subject alternative names.
    #[error("the certificate carries no SPIFFE identity (no URI subject alternative name)")]
    NoUri,
    /// X.509-SVID §2: exactly one URI, or the identity would be ambiguous.
    #[error("the certificate carries {0} URIs, where an X.509-SVID has exactly one")]
    SeveralUris(usize),
    /// The one URI is longer than SPIFFE allows.
    #[error("the certificate's URI is {0} bytes long, where SPIFFE allows {MAX_URI}")]
    TooLong(usize),
    /// The one URI is not a workload identity.
    #[error("the certificate's URI is no workload identity: {0}")]
    NotAWorkload(#[from] IdentityError),
}

/// What a leaf certificate says about its holder.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    /// Lower-case hex.
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// The identity of the peer of a finished handshake. Neither chain nor validity
/// is looked at: the verifiers of [`crate::tls`] did that during the handshake.
pub fn peer_identity(connection: &CommonState) -> Result<SpiffeId, PeerIdentityError> {
    let leaf = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(PeerIdentityError::NoCertificate)?;
    leaf_identity(leaf)
}

/// The workload identity in a DER-encoded leaf certificate: its only URI
/// subject alternative name. Names of other types may stand beside it.
pub fn leaf_identity(der: &[u8]) -> Result<SpiffeId, PeerIdentityError> {
    identity(&parse(der)?)
}

/// Reads identity, serial and validity of a DER-encoded leaf certificate.
pub(crate) fn read(der: &[u8]) -> Result<Leaf, PeerIdentityError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok(Leaf {
        id: identity(&certificate)?,
        serial: hex(certificate.raw_serial()),
        not_before: system_time(validity.not_before)?,
        not_after: system_time(validity.not_after)?,
    })
}

/// Parses a certificate and nothing behind it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerIdentityError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerIdentityError::Malformed("bytes after its end")),
        Err(_) => Err(PeerIdentityError::Malformed("not X.509 in DER")),
    }
}

/// The one URI among the subject alternative names.
pub(crate) fn only_uri<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<&'a str, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerIdentityError::Malformed("its subject alternative names"))?
        .ok_or(PeerIdentityError::NoUri)?;
    let mut found = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => found.push(*uri),
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => {
                return Err(PeerIdentityError::Malformed("a URI that is not text"));
            }
            _ => {}
        }
    }
    match found[..] {
        [] => Err(PeerIdentityError::NoUri),
        [uri] if uri.len() > MAX_URI => Err(PeerIdentityError::TooLong(uri.len())),
        [uri] => Ok(uri),
        _ => Err(PeerIdentityError::SeveralUris(found.len())),
    }
}

/// A certificate's time as the system tells it.
pub(crate) fn system_time(time: ASN1Time) -> Result<SystemTime, PeerIdentityError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or(PeerIdentityError::Malformed("its validity"))
}

fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerIdentityError> {
    Ok(only_uri(certificate)?.parse()?)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
