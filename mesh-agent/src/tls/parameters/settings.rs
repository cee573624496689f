//! The TLS settings as data, and their reading from Istio's words. Read by
//! [`crate::model`]; in force as [`super::Parameters`].

use rustls::{CipherSuite, NamedGroup};

use super::{TlsSettingError, names};
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
pub(super) fn default_groups() -> Vec<NamedGroup> {
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

    pub(super) fn suites_of(&self, version: TlsVersion) -> impl Iterator<Item = CipherSuite> {
        let known = move |suite: &CipherSuite| {
            let mut all = provider::suites();
            all.any(|it| it.suite() == *suite && it.version().version == version.protocol())
        };
        self.suites.iter().copied().filter(known)
    }

    pub(super) fn curves_of(&self, version: TlsVersion) -> impl Iterator<Item = NamedGroup> {
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
