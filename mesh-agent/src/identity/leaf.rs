//! Reads what the mesh needs to know from a leaf certificate: its one SPIFFE
//! URI or its DNS names, serial, issuer and validity. The bytes come from a peer, so everything about
//! them is doubted. Called by the TLS verifiers, by [`super::Svid`] and by
//! whoever wants the identity behind a finished handshake.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{X509Certificate, X509Extension};
use x509_parser::time::ASN1Time;

use super::{IdentityError, KeyId, SpiffeId, TrustDomain};

/// Longest URI that is looked at, in bytes: SPIFFE-ID §2.3 requires support of
/// 2048 and lets longer ones be refused.
const MAX_URI: usize = 2048;

/// Tag of a URI in a GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// Tag of a DNS name there.
const DNS_TAG: u32 = 2;

/// How many of a stranger's names a message shows.
const SHOWN: usize = 4;

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
    /// No URI, and DNS names that no workload may prove itself with.
    #[error(
        "the certificate carries no SPIFFE identity, and its DNS names ({0}) are those of no \
         workload"
    )]
    NamesOfNobody(String),
    /// No URI, and DNS names of several workloads, so that it proves none.
    #[error(
        "the certificate carries no SPIFFE identity, and its DNS names ({names}) are those of \
         several workloads ({holders}): give each its own"
    )]
    NamesOfSeveral {
        /// The names in the certificate.
        names: String,
        /// The workloads that have them.
        holders: String,
    },
}

/// Who the holder of a leaf certificate says to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// Its one URI, as it is written. Its DNS names say nothing then.
    Uri(&'a str),
    /// It has no URI: its DNS names, at least one.
    Names(Vec<&'a str>),
}

/// What a leaf certificate says about its holder.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    /// Lower-case hex.
    pub(crate) serial: String,
    /// The key identifier of its issuer, where it says so (RFC 5280 §4.2.1.1).
    pub(crate) issuer: Option<KeyId>,
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

/// Reads a DER-encoded leaf certificate whose URI says whose it is.
pub(crate) fn read(der: &[u8]) -> Result<Leaf, PeerIdentityError> {
    let certificate = parse(der)?;
    let id = identity(&certificate)?;
    read_as(id, &certificate)
}

/// Reads a leaf certificate that is known to be `id`'s.
pub(crate) fn read_as(
    id: SpiffeId,
    certificate: &X509Certificate<'_>,
) -> Result<Leaf, PeerIdentityError> {
    let validity = certificate.validity();
    Ok(Leaf {
        id,
        serial: serial(certificate),
        issuer: issuer(certificate),
        not_before: system_time(validity.not_before)?,
        not_after: system_time(validity.not_after)?,
    })
}

/// Who the holder of `certificate` says to be.
pub(crate) fn claim<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Claim<'a>, PeerIdentityError> {
    match only_uri(certificate) {
        Ok(uri) => Ok(Claim::Uri(uri)),
        Err(PeerIdentityError::NoUri) => match names_in(certificate)? {
            names if names.is_empty() => Err(PeerIdentityError::NoUri),
            names => Ok(Claim::Names(names)),
        },
        Err(error) => Err(error),
    }
}

/// The first few of a stranger's names for a message, with what is no host name's
/// character escaped.
pub(crate) fn shown(names: &[&str]) -> String {
    let mut shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| {
            name.chars()
                .take(255)
                .flat_map(char::escape_default)
                .collect()
        })
        .collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

/// The serial number in lower-case hex.
pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    hex(certificate.raw_serial())
}

/// The key identifier of the issuer, where the certificate names it.
pub(crate) fn issuer(certificate: &X509Certificate<'_>) -> Option<KeyId> {
    authority_key(certificate.extensions())
}

/// The key identifier of the issuer of a certificate or a revocation list with these
/// extensions.
pub(crate) fn authority_key(extensions: &[X509Extension<'_>]) -> Option<KeyId> {
    let mut parsed = extensions.iter().map(X509Extension::parsed_extension);
    parsed.find_map(|extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            Some(KeyId::new(authority.key_identifier.as_ref()?.0))
        }
        _ => None,
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

/// The first SPIFFE URI of an authority's certificate that names another trust domain than
/// `domain`, or what is malformed about its names: it does not vouch for `domain` then
/// (X.509-SVID §3.2 and §4.2). `None` where all its SPIFFE URIs name `domain`, and where it
/// has none. A path, which X.509-SVID forbids there, does not matter.
pub(crate) fn bound_elsewhere(der: &[u8], domain: &TrustDomain) -> Option<String> {
    const SCHEME: &str = "spiffe:";
    let malformed = |what: PeerIdentityError| Some(what.to_string());
    let certificate = match parse(der) {
        Ok(certificate) => certificate,
        Err(error) => return malformed(error),
    };
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        Ok(None) => return None,
        Err(_) => {
            return malformed(PeerIdentityError::Malformed(
                "its subject alternative names",
            ));
        }
    };
    names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => {
            let scheme = uri.get(..SCHEME.len())?;
            if !scheme.eq_ignore_ascii_case(SCHEME) {
                return None;
            }
            let rest = uri[SCHEME.len()..].strip_prefix("//");
            let named = rest.and_then(|rest| rest.split('/').next());
            (named != Some(domain.as_str())).then(|| shown(&[uri]))
        }
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => {
            malformed(PeerIdentityError::Malformed("a URI that is not text"))
        }
        _ => None,
    })
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

fn names_in<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerIdentityError::Malformed("its subject alternative names"))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(Ok(*name)),
            GeneralName::Invalid(tag, _) if tag.0 == DNS_TAG => Some(Err(
                PeerIdentityError::Malformed("a DNS name that is not text"),
            )),
            _ => None,
        })
        .collect()
}

/// End of a DER-encoded certificate's validity.
pub(crate) fn end(der: &[u8]) -> Result<SystemTime, PeerIdentityError> {
    system_time(parse(der)?.validity().not_after)
}

/// The subject of a certificate and the end of its validity.
pub(crate) fn subject_and_end(der: &[u8]) -> Result<(String, SystemTime), PeerIdentityError> {
    let certificate = parse(der)?;
    let end = system_time(certificate.validity().not_after)?;
    Ok((certificate.subject().to_string(), end))
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
