//! Certificates and revocation lists in PEM.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::CaError;

/// All certificates of a text, at least one. `path` is for the error.
pub(super) fn certificates(
    text: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let unreadable = || CaError::Unreadable {
        path: path.to_owned(),
        expected: "one or more certificates in PEM",
    };
    let all: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| unreadable())?;
    if all.is_empty() {
        return Err(unreadable());
    }
    Ok(all)
}

/// The one revocation list of a text.
pub(super) fn list(text: &str) -> Option<CertificateRevocationListDer<'static>> {
    CertificateRevocationListDer::from_pem_slice(text.as_bytes()).ok()
}

/// A chain in PEM.
pub(crate) fn chain(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|der| block("CERTIFICATE", der))
        .collect()
}

/// DER in PEM: base64 in lines of 64 characters (RFC 7468 §2).
pub(crate) fn block(label: &'static str, der: &[u8]) -> String {
    let pem = ::pem::Pem::new(label, der);
    ::pem::encode_config(
        &pem,
        ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF),
    )
}
