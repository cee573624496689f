//! What can be wrong with the TLS settings, by field and with its cure.

use super::names;
use super::settings::{TlsSettings, TlsVersion, default_groups};
use crate::tls::provider;

/// Why a TLS setting cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsSettingError {
    /// A version that is known and was withdrawn.
    #[error(
        "{0:?} is refused: TLS 1.0 and 1.1 (RFC 8996) and SSL 3 (RFC 7568) were withdrawn as insecure"
    )]
    WithdrawnVersion(String),
    /// A word that names no version.
    #[error("{0:?} names no version of TLS")]
    UnknownVersion(String),
    /// A suite without forward secrecy or with block chaining.
    #[error(
        "{word:?} is refused: its key exchange has no forward secrecy, or its cipher is of the block-chaining kind that HTTP/2 forbids (RFC 9113, appendix A)"
    )]
    OutdatedSuite {
        /// Its place in the list, from 0.
        index: usize,
        /// As it is written.
        word: String,
    },
    /// A word that names no suite.
    #[error("{word:?} names no cipher suite that Isthmus has")]
    UnknownSuite {
        /// Its place in the list, from 0.
        index: usize,
        /// As it is written.
        word: String,
    },
    /// A word that names no curve.
    #[error("{word:?} names no key exchange that Isthmus has")]
    UnknownCurve {
        /// Its place in the list, from 0.
        index: usize,
        /// As it is written.
        word: String,
    },
    /// A suite that the FIPS module is not approved for.
    #[error("{word:?} is not approved: this agent is built for FIPS")]
    UnapprovedSuite {
        /// Its place in the list, from 0.
        index: usize,
        /// As it is written.
        word: String,
    },
    /// A key exchange that the FIPS module is not approved for.
    #[error("{word:?} is not approved: this agent is built for FIPS")]
    UnapprovedCurve {
        /// Its place in the list, from 0.
        index: usize,
        /// As it is written.
        word: String,
    },
    /// The list leaves nothing for a version that is offered.
    #[error("the list names no suite of {}, which minProtocolVersion lets in", .0.name())]
    NoSuiteFor(TlsVersion),
    /// The list leaves no key exchange for a version that is offered.
    #[error("the list names no key exchange that {} can do, which minProtocolVersion lets in", .0.name())]
    NoCurveFor(TlsVersion),
}

impl TlsSettingError {
    /// The field of `meshMTLS` in which it is, such as `cipherSuites[1]`.
    pub fn field(&self) -> String {
        match self {
            Self::WithdrawnVersion(_) | Self::UnknownVersion(_) => "minProtocolVersion".to_owned(),
            Self::OutdatedSuite { index, .. }
            | Self::UnknownSuite { index, .. }
            | Self::UnapprovedSuite { index, .. } => format!("cipherSuites[{index}]"),
            Self::UnknownCurve { index, .. } | Self::UnapprovedCurve { index, .. } => {
                format!("ecdhCurves[{index}]")
            }
            Self::NoSuiteFor(_) => "cipherSuites".to_owned(),
            Self::NoCurveFor(_) => "ecdhCurves".to_owned(),
        }
    }

    /// What makes it right.
    pub fn cure(&self) -> String {
        match self {
            Self::WithdrawnVersion(_) | Self::UnknownVersion(_) => {
                "write TLSV1_3 (the default), or TLSV1_2 for peers that cannot do it".to_owned()
            }
            Self::OutdatedSuite { .. }
            | Self::UnknownSuite { .. }
            | Self::UnapprovedSuite { .. } => {
                let known = provider::suites().map(|suite| names::written(suite.suite()));
                format!("choose from {}", join(known))
            }
            Self::UnknownCurve { .. } | Self::UnapprovedCurve { .. } => {
                let known = default_groups().into_iter().map(names::curve_word);
                format!("choose from {}", join(known))
            }
            Self::NoSuiteFor(version) => {
                let all = TlsSettings::default();
                let known = all.suites_of(*version).map(names::written);
                let add = format!("add one of {}", join(known));
                match version {
                    TlsVersion::Tls12 => format!("{add}, or write minProtocolVersion: TLSV1_3"),
                    TlsVersion::Tls13 => add,
                }
            }
            Self::NoCurveFor(version) => {
                let all = TlsSettings::default();
                let known = all.curves_of(*version).map(names::curve_word);
                format!(
                    "add one of {}, or write minProtocolVersion: TLSV1_3",
                    join(known)
                )
            }
        }
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
