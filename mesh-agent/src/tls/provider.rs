//! The cryptography library, named explicitly so that nothing depends on a
//! process-wide default. Which of its suites and key exchanges are used is for
//! [`super::Parameters`] to say; signatures and randomness come from here.

use std::sync::{Arc, LazyLock};

use rustls::ProtocolVersion;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, GetRandomFailed, SupportedKxGroup};

use super::parameters::names;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

/// Whether this is the build in which everything must be approved.
pub(super) const FIPS_BUILD: bool = cfg!(feature = "fips");

/// The library's own provider, for what no setting changes: how signatures are
/// checked, where keys are loaded, and randomness.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The suites that this build may use: in the FIPS build those of which the
/// library says that they are approved.
pub(super) fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let all = ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| !FIPS_BUILD || suite.fips())
}

/// The key exchanges that this build may use, chosen like [`suites`].
pub(super) fn groups() -> impl Iterator<Item = &'static dyn SupportedKxGroup> {
    let all = ALL_KX_GROUPS.iter().copied();
    all.filter(|group| !FIPS_BUILD || group.fips())
}

/// What the cryptography library says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FipsStatus {
    /// Whether the agent was built with the feature `fips`.
    pub built: bool,
    /// Whether the library says that everything with which the agent does TLS
    /// unless it is set otherwise runs in its validated module.
    pub active: bool,
}

/// Asks the library whether it is in FIPS mode.
pub fn fips_status() -> FipsStatus {
    FipsStatus {
        built: FIPS_BUILD,
        active: super::Parameters::default().fips(),
    }
}

/// Fills `buffer` with random bytes fit for keys.
pub(crate) fn fill_random(buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
    PROVIDER.secure_random.fill(buffer)
}

/// A random number in 0..1, to spread work in time; 0 without randomness.
pub(crate) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match fill_random(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.0,
    }
}

/// The common name of a protocol version.
pub(super) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // The configurations offer nothing else.
        _ => "unknown",
    }
}

/// The name that IANA gives a suite.
pub(super) fn suite_name(suite: Option<SupportedCipherSuite>) -> &'static str {
    suite.map_or("unknown", |suite| names::iana(suite.suite()))
}
