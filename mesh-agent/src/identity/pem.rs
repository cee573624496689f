//! Reads certificates and revocation lists out of PEM text that people write:
//! bundles in the configuration and in files. What is wrong is said by its place.

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::leaf;

/// Why a PEM text does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The text is no PEM.
    #[error("it is not PEM: {0}")]
    NotPem(&'static str),
    /// Nothing of the kind that was looked for.
    #[error("it holds no {0} in PEM")]
    Empty(&'static str),
    /// A key, where only public things belong.
    #[error("it holds a private key, which does not belong there")]
    Key,
    /// Something else than what was looked for.
    #[error("part {part} is no {expected}")]
    Other {
        /// Its place in the text, from 1.
        part: usize,
        /// What was looked for.
        expected: &'static str,
    },
    /// The bytes are not what the label says.
    #[error("part {part} is labelled as a {expected} and is none")]
    Malformed {
        /// Its place in the text, from 1.
        part: usize,
        /// What it is labelled as.
        expected: &'static str,
    },
    /// A certificate that may sign no other.
    #[error("the certificate of part {part} ({subject}) is not an authority's (CA:TRUE)")]
    NotAnAuthority {
        /// Its place in the text, from 1.
        part: usize,
        /// Its subject, or that it has none.
        subject: String,
    },
}

const CERTIFICATE: &str = "certificate";
const LIST: &str = "revocation list";

/// The certificates of a text, whatever they may do.
///
/// # Errors
/// The first part that is no certificate, or that there is none.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for (part, der) in sections(text, SectionKind::Certificate, CERTIFICATE)? {
        leaf::parse(&der).map_err(|_| malformed(part, CERTIFICATE))?;
        certificates.push(der.into());
    }
    Ok(certificates)
}

/// The certificates of a text, all of them authorities'. One that is there twice
/// counts once.
///
/// # Errors
/// As [`certificates`], and the first that may not sign others.
pub fn roots(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut roots = Vec::new();
    for (index, root) in certificates(text)?.into_iter().enumerate() {
        let certificate = leaf::parse(&root).map_err(|_| malformed(index + 1, CERTIFICATE))?;
        if !certificate.is_ca() {
            let subject = certificate.subject().to_string();
            let subject = if subject.is_empty() {
                "without a subject".to_owned()
            } else {
                subject
            };
            return Err(PemError::NotAnAuthority {
                part: index + 1,
                subject,
            });
        }
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    Ok(roots)
}

/// The revocation lists of a text.
///
/// # Errors
/// The first part that is no revocation list, or that there is none.
pub fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let mut lists = Vec::new();
    for (part, der) in sections(text, SectionKind::Crl, LIST)? {
        match x509_parser::parse_x509_crl(&der) {
            Ok(([], _)) => lists.push(der.into()),
            _ => return Err(malformed(part, LIST)),
        }
    }
    Ok(lists)
}

fn malformed(part: usize, expected: &'static str) -> PemError {
    PemError::Malformed { part, expected }
}

/// What the PEM reader means. Its own words quote the text, as a list of numbers.
fn why(error: &rustls::pki_types::pem::Error) -> &'static str {
    use rustls::pki_types::pem::Error as E;
    match error {
        E::MissingSectionEnd { .. } => "a part has a BEGIN line and no END line",
        E::IllegalSectionStart { .. } => "a BEGIN line is not whole",
        E::Base64Decode(_) => "between a BEGIN and its END line is something else than base64",
        _ => "it cannot be read",
    }
}

/// The parts of a text, which must all be of one kind, with their places.
fn sections(
    text: &[u8],
    kind: SectionKind,
    expected: &'static str,
) -> Result<Vec<(usize, Vec<u8>)>, PemError> {
    let mut found = Vec::new();
    for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).enumerate() {
        let (is, der) = section.map_err(|error| PemError::NotPem(why(&error)))?;
        if is == kind {
            found.push((index + 1, der));
            continue;
        }
        drop(zeroize::Zeroizing::new(der));
        return Err(match is {
            SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey | SectionKind::PrivateKey => {
                PemError::Key
            }
            _ => PemError::Other {
                part: index + 1,
                expected,
            },
        });
    }
    if found.is_empty() {
        return Err(PemError::Empty(expected));
    }
    Ok(found)
}
