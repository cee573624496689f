//! The TLS settings as data, and their reading from Istio's words. Read by
//! [`crate::model`]; in force as [`super::Parameters`].

use rustls::{CipherSuite, NamedGroup};

use super::names;
use crate::tls::provider;

/// How the mesh does TLS: what Istio's `MeshConfig.meshMTLS` says, every word
/// understood and the whole of it possible. The order of suites and key exchanges
/// is that of preference; of what both ends have, the client's order decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    pub(super) minimum: TlsVersion,
    pub(super) suites: Vec<CipherSuite>,
    pub(super) groups: Vec<NamedGroup>,
}

/// A version that can be offered, as the least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with the extended master secret (RFC 7627) only.
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// `meshMTLS` as it is written. Nothing in it means the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsWords<'a> {
    /// `minProtocolVersion`
    pub minimum: Option<&'a str>,
    /// `cipherSuites`
    pub suites: &'a [String],
    /// `ecdhCurves`
    pub curves: &'a [String],
}

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

impl TlsVersion {
    /// `TLS 1.2` or `TLS 1.3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            minimum: TlsVersion::Tls13,
            suites: provider::suites().map(|suite| suite.suite()).collect(),
            groups: default_groups(),
        }
    }
}

/// The hybrid first: traffic recorded today stays closed to a quantum computer.
/// The others are for peers that do not have it.
fn default_groups() -> Vec<NamedGroup> {
    let wanted = [
        NamedGroup::X25519MLKEM768,
        NamedGroup::X25519,
        NamedGroup::secp256r1,
        NamedGroup::secp384r1,
    ];
    wanted.into_iter().filter(|it| has_group(*it)).collect()
}

fn has_group(group: NamedGroup) -> bool {
    provider::groups().any(|it| it.name() == group)
}

fn has_suite(suite: CipherSuite) -> bool {
    provider::suites().any(|it| it.suite() == suite)
}

impl TlsSettings {
    /// Reads Istio's words. Unlike in Istio, where `cipherSuites` says nothing of
    /// TLS 1.3, the list is the whole of what is offered, for every version. A word
    /// that is there twice counts once.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the fields.
    pub fn read(words: TlsWords<'_>) -> Result<Self, Vec<TlsSettingError>> {
        let mut errors = Vec::new();
        let minimum = minimum(words.minimum, &mut errors);
        let mut suites = read_list(words.suites, suite, &mut errors);
        let mut groups = read_list(words.curves, group, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let default = Self::default();
        if suites.is_empty() {
            suites = default.suites;
        }
        if groups.is_empty() {
            groups = default.groups;
        }
        let settings = Self {
            minimum,
            suites,
            groups,
        };
        for version in settings.versions() {
            if settings.suites_of(version).next().is_none() {
                errors.push(TlsSettingError::NoSuiteFor(version));
            }
            if settings.curves_of(version).next().is_none() {
                errors.push(TlsSettingError::NoCurveFor(version));
            }
        }
        if errors.is_empty() {
            Ok(settings)
        } else {
            Err(errors)
        }
    }

    /// The least version that is spoken.
    pub fn minimum(&self) -> TlsVersion {
        self.minimum
    }

    /// The names of the suites, as settings are written.
    pub fn suite_names(&self) -> impl Iterator<Item = &'static str> {
        self.suites.iter().map(|suite| names::written(*suite))
    }

    /// The names of the key exchanges, as settings are written.
    pub fn curve_names(&self) -> impl Iterator<Item = &'static str> {
        self.groups.iter().map(|group| names::curve_word(*group))
    }

    fn versions(&self) -> impl Iterator<Item = TlsVersion> + use<> {
        let minimum = self.minimum;
        let all = [TlsVersion::Tls12, TlsVersion::Tls13];
        all.into_iter().filter(move |version| *version >= minimum)
    }

    fn suites_of(&self, version: TlsVersion) -> impl Iterator<Item = CipherSuite> {
        let known = move |suite: &CipherSuite| {
            let mut all = provider::suites();
            all.any(|it| it.suite() == *suite && it.version().version == version.protocol())
        };
        self.suites.iter().copied().filter(known)
    }

    fn curves_of(&self, version: TlsVersion) -> impl Iterator<Item = NamedGroup> {
        let usable = move |group: &NamedGroup| {
            let mut all = provider::groups();
            all.any(|it| it.name() == *group && it.usable_for_version(version.protocol()))
        };
        self.groups.iter().copied().filter(usable)
    }
}

impl TlsVersion {
    fn protocol(self) -> rustls::ProtocolVersion {
        match self {
            Self::Tls12 => rustls::ProtocolVersion::TLSv1_2,
            Self::Tls13 => rustls::ProtocolVersion::TLSv1_3,
        }
    }
}

fn minimum(word: Option<&str>, errors: &mut Vec<TlsSettingError>) -> TlsVersion {
    match word {
        None | Some("" | "TLS_AUTO" | "TLSV1_3") => TlsVersion::Tls13,
        Some("TLSV1_2") => TlsVersion::Tls12,
        Some(old @ ("TLSV1_0" | "TLSV1_1" | "SSLV3" | "SSLV2")) => {
            errors.push(TlsSettingError::WithdrawnVersion(old.to_owned()));
            TlsVersion::Tls13
        }
        Some(other) => {
            errors.push(TlsSettingError::UnknownVersion(other.to_owned()));
            TlsVersion::Tls13
        }
    }
}

fn read_list<T: PartialEq>(
    words: &[String],
    read: impl Fn(usize, &str) -> Result<T, TlsSettingError>,
    errors: &mut Vec<TlsSettingError>,
) -> Vec<T> {
    let mut list = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        match read(index, word) {
            Ok(it) if list.contains(&it) => {}
            Ok(it) => list.push(it),
            Err(error) => errors.push(error),
        }
    }
    list
}

fn suite(index: usize, word: &str) -> Result<CipherSuite, TlsSettingError> {
    let own = || word.to_owned();
    match names::suite(word) {
        Some(suite) if has_suite(suite) => Ok(suite),
        Some(_) => Err(TlsSettingError::UnapprovedSuite { index, word: own() }),
        None if names::is_outdated_suite(word) => {
            Err(TlsSettingError::OutdatedSuite { index, word: own() })
        }
        None => Err(TlsSettingError::UnknownSuite { index, word: own() }),
    }
}

fn group(index: usize, word: &str) -> Result<NamedGroup, TlsSettingError> {
    let word = || word.to_owned();
    match names::curve(&word()) {
        Some(group) if has_group(group) => Ok(group),
        Some(_) => Err(TlsSettingError::UnapprovedCurve {
            index,
            word: word(),
        }),
        None => Err(TlsSettingError::UnknownCurve {
            index,
            word: word(),
        }),
    }
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
