//! The cryptography in use: one provider, named explicitly and made once, so
//! that nothing depends on a process-wide default.

use std::sync::{Arc, LazyLock};

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed};
use rustls::{ProtocolVersion, SupportedCipherSuite};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        // The hybrid first: traffic recorded today stays closed to a quantum
        // computer. The others are for peers that do not have it.
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..default_provider()
    })
});

/// The provider of all TLS configurations.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
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
        // The configurations offer nothing else.
        _ => "unknown",
    }
}

/// The name that IANA gives a suite. rustls spells TLS 1.3's with `TLS13_`, to
/// tell them from TLS 1.2's.
pub(super) fn suite_name(suite: Option<SupportedCipherSuite>) -> &'static str {
    use rustls::CipherSuite as Suite;
    match suite.map(|suite| suite.suite()) {
        Some(Suite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(Suite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(Suite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        // The provider has no other for TLS 1.3.
        _ => "unknown",
    }
}
