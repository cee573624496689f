//! Certificate signing requests (PKCS #10, RFC 2986) from callers who are not
//! trusted. A pure check: what it lets through is a public key whose owner asked
//! for nothing but the one identity. The certificate is made from these two, so
//! what a request smuggles past the parser is in no certificate.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo as ParsedKey, X509Name, X509Version};

use super::profile;
use crate::identity::{SpiffeId, TrustDomain};

/// Longest request that is looked at, in bytes. One for an RSA key of 4096 bits
/// and the longest SPIFFE ID (2048 bytes) takes less than 4 KiB.
pub const MAX_REQUEST: usize = 8 << 10;

/// Sizes of RSA keys in bits. Shorter ones are broken (NIST SP 800-131A); longer
/// ones only cost every peer time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is too long.
    #[error("the request is {0} bytes long: at most {MAX_REQUEST} are allowed")]
    TooLong(usize),
    /// It is not a request.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// Its key is of a kind that is not certified here.
    #[error("the request's key is {0}: use ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits")]
    Key(String),
    /// Its signature is of a kind that proves nothing today.
    #[error(
        "the request is signed with {0}: use SHA-256 or SHA-384 with ECDSA, or SHA-256, -384 or -512 with RSA (PKCS #1 v1.5)"
    )]
    Algorithm(String),
    /// The caller does not hold the key.
    #[error("the request's signature is not of its key")]
    Signature,
    /// It names nobody.
    #[error("the request has no subject alternative name: it must have one, the URI {0}")]
    NoName(String),
    /// It names more than one.
    #[error(
        "the request has {0} subject alternative names: it must have exactly one, the URI that is asked for"
    )]
    SeveralNames(usize),
    /// Its one name is not a URI.
    #[error("the request's subject alternative name is {0}: it must be the URI that is asked for")]
    NotUri(String),
    /// Its one name is somebody else.
    #[error("the request is for {found:?}, but {requested} is asked for")]
    OtherName {
        /// The identity that the call is about.
        requested: String,
        /// The URI in the request.
        found: String,
    },
    /// It asks for what is not granted.
    #[error("the request asks for {0}, which is not granted: leave it out")]
    NotGranted(String),
}

/// A key whose owner asked for a certificate, and for nothing that is not granted.
#[derive(Clone, Debug)]
pub struct CheckedKey(SubjectPublicKeyInfo);

impl CheckedKey {
    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.0
    }
}

/// Checks a workload's request, in DER, for exactly this identity.
///
/// Key: ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits (Istio's agent makes
/// such by default). No Ed25519: not every peer of the mesh can verify it. The
/// subject must be empty, as Istio's clients send it, or its parts must be.
///
/// # Errors
/// [`CsrError`] with the reason, fit to be shown to the caller.
pub fn check_request(der: &[u8], requested: &SpiffeId) -> Result<CheckedKey, CsrError> {
    let request = parse(der)?;
    check_subject(&request.certification_request_info.subject)?;
    check_extensions(
        &request,
        Wanted::Uri(&requested.to_string()),
        |extension| match extension {
            ParsedExtension::BasicConstraints(basic)
                if !basic.ca && basic.path_len_constraint.is_none() =>
            {
                Ok(())
            }
            ParsedExtension::BasicConstraints(_) => Err("to be a certificate authority"),
            ParsedExtension::KeyUsage(usage) if usage.flags == 1 => Ok(()),
            ParsedExtension::KeyUsage(_) => Err("a key usage other than digitalSignature"),
            other => extended_usage(other),
        },
    )?;
    proven_key(&request)
}

/// Checks the request of the authority's own TLS server, whose names come from
/// its own configuration: it may ask for none.
pub(super) fn check_server_request(der: &[u8]) -> Result<CheckedKey, CsrError> {
    let request = parse(der)?;
    check_extensions(&request, Wanted::Nothing, extended_usage)?;
    proven_key(&request)
}

/// Checks the request of an intermediate of this trust domain.
pub(super) fn check_intermediate_request(
    der: &[u8],
    domain: &TrustDomain,
) -> Result<CheckedKey, CsrError> {
    let request = parse(der)?;
    check_extensions(
        &request,
        Wanted::Uri(&profile::uri_of(domain)),
        |extension| match extension {
            ParsedExtension::BasicConstraints(basic)
                if basic.ca && basic.path_len_constraint == Some(0) =>
            {
                Ok(())
            }
            ParsedExtension::BasicConstraints(_) => Err("other than CA:TRUE with pathlen 0"),
            // keyCertSign and cRLSign, bits 5 and 6 (RFC 5280 §4.2.1.3).
            ParsedExtension::KeyUsage(usage) if usage.flags == 0b110_0000 => Ok(()),
            ParsedExtension::KeyUsage(_) => Err("a key usage other than keyCertSign and cRLSign"),
            _ => Err("an extension that no intermediate has"),
        },
    )?;
    proven_key(&request)
}

/// The names that a request must have.
enum Wanted<'a> {
    Uri(&'a str),
    Nothing,
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, CsrError> {
    if der.len() > MAX_REQUEST {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|_| CsrError::Malformed("not PKCS #10 in DER"))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes after its end"));
    }
    if request.certification_request_info.version != X509Version::V1 {
        return Err(CsrError::Malformed("its version is not 1 (RFC 2986 §4.1)"));
    }
    Ok(request)
}

/// Istio's agent sends an empty organisation; any other subject is a wish.
fn check_subject(subject: &X509Name<'_>) -> Result<(), CsrError> {
    let empty = subject
        .iter_attributes()
        .all(|part| part.as_slice().is_empty());
    if empty {
        return Ok(());
    }
    Err(CsrError::NotGranted("a subject".into()))
}

fn check_extensions(
    request: &X509CertificationRequest<'_>,
    wanted: Wanted<'_>,
    granted: impl Fn(&ParsedExtension<'_>) -> Result<(), &'static str>,
) -> Result<(), CsrError> {
    let mut requested: Option<&[X509Extension<'_>]> = None;
    for attribute in request.certification_request_info.iter_attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(extensions) if requested.is_none() => {
                requested = Some(&extensions.extensions);
            }
            ParsedCriAttribute::ExtensionRequest(_) => {
                return Err(CsrError::Malformed("two lists of extensions"));
            }
            _ => {
                let what = format!("the attribute {}", attribute.oid);
                return Err(CsrError::NotGranted(what));
            }
        }
    }
    let mut named = false;
    let extensions = requested.unwrap_or_default();
    for (place, extension) in extensions.iter().enumerate() {
        if extensions[..place]
            .iter()
            .any(|other| other.oid == extension.oid)
        {
            return Err(CsrError::Malformed("the same extension twice"));
        }
        match (extension.parsed_extension(), &wanted) {
            (ParsedExtension::SubjectAlternativeName(names), Wanted::Uri(uri)) => {
                check_names(&names.general_names, uri)?;
                named = true;
            }
            (ParsedExtension::ParseError { .. }, _) => {
                return Err(CsrError::Malformed("an extension that cannot be read"));
            }
            (
                ParsedExtension::UnsupportedExtension { .. }
                | ParsedExtension::SubjectAlternativeName(_),
                _,
            ) => {
                let what = format!("the extension {}", extension.oid);
                return Err(CsrError::NotGranted(what));
            }
            (other, _) => granted(other).map_err(|what| CsrError::NotGranted(what.into()))?,
        }
    }
    match wanted {
        Wanted::Uri(uri) if !named => Err(CsrError::NoName(uri.to_owned())),
        _ => Ok(()),
    }
}

fn extended_usage(extension: &ParsedExtension<'_>) -> Result<(), &'static str> {
    match extension {
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            if others {
                return Err("an extended key usage other than serverAuth and clientAuth");
            }
            Ok(())
        }
        _ => Err("an extension that no workload has"),
    }
}

fn check_names(names: &[GeneralName<'_>], requested: &str) -> Result<(), CsrError> {
    match names {
        [] => Err(CsrError::NoName(requested.to_owned())),
        [GeneralName::URI(uri)] if *uri == requested => Ok(()),
        [GeneralName::URI(uri)] => Err(CsrError::OtherName {
            requested: requested.to_owned(),
            found: uri.chars().take(256).collect(),
        }),
        [GeneralName::Invalid(..)] => Err(CsrError::Malformed("its subject alternative name")),
        [other] => Err(CsrError::NotUri(kind(other).into())),
        several => Err(CsrError::SeveralNames(several.len())),
    }
}

fn kind(name: &GeneralName<'_>) -> &'static str {
    match name {
        GeneralName::DNSName(_) => "a DNS name",
        GeneralName::IPAddress(_) => "an IP address",
        GeneralName::RFC822Name(_) => "a mail address",
        GeneralName::DirectoryName(_) => "a directory name",
        _ => "of another kind",
    }
}

/// The key, once its kind is one that is certified and it signed the request.
fn proven_key(request: &X509CertificationRequest<'_>) -> Result<CheckedKey, CsrError> {
    let key = &request.certification_request_info.subject_pki;
    check_key(key)?;
    let algorithm = &request.signature_algorithm.algorithm;
    let strong = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
    ];
    if !strong.contains(algorithm) {
        return Err(CsrError::Algorithm(algorithm.to_string()));
    }
    request
        .verify_signature()
        .map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw)
        .map(CheckedKey)
        .map_err(|_| CsrError::Malformed("its key"))
}

fn check_key(key: &ParsedKey<'_>) -> Result<(), CsrError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref();
        let curve = curve.and_then(|curve| curve.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(curve) => Err(CsrError::Key(format!("on the curve {curve}"))),
            None => Err(CsrError::Key("on a curve of its own".into())),
        };
    }
    if *algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(CsrError::Key(format!("of the kind {algorithm}")));
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
        Ok(PublicKey::RSA(rsa)) => Err(CsrError::Key(format!("RSA of {} bits", rsa.key_size()))),
        _ => Err(CsrError::Malformed("its RSA key")),
    }
}

#[cfg(test)]
mod tests;
