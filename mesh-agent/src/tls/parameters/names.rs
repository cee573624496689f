//! The words of Istio's `TLSConfig` for suites and curves, and what they are here.

use rustls::{CipherSuite, NamedGroup};

/// A suite and its names.
struct SuiteNames {
    suite: CipherSuite,
    /// IANA's, which for TLS 1.3 is the only one.
    iana: &'static str,
    /// OpenSSL's, in which Istio's settings are written.
    openssl: &'static str,
}

const SUITES: &[SuiteNames] = &[
    SuiteNames {
        suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
        iana: "TLS_AES_256_GCM_SHA384",
        openssl: "TLS_AES_256_GCM_SHA384",
    },
    SuiteNames {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        iana: "TLS_AES_128_GCM_SHA256",
        openssl: "TLS_AES_128_GCM_SHA256",
    },
    SuiteNames {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        iana: "TLS_CHACHA20_POLY1305_SHA256",
        openssl: "TLS_CHACHA20_POLY1305_SHA256",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        openssl: "ECDHE-ECDSA-AES256-GCM-SHA384",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        openssl: "ECDHE-ECDSA-AES128-GCM-SHA256",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        openssl: "ECDHE-ECDSA-CHACHA20-POLY1305",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        openssl: "ECDHE-RSA-AES256-GCM-SHA384",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        openssl: "ECDHE-RSA-AES128-GCM-SHA256",
    },
    SuiteNames {
        suite: CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        openssl: "ECDHE-RSA-CHACHA20-POLY1305",
    },
];

/// What Istio's validation lets through beyond [`SUITES`]: block chaining, and
/// key exchanges without forward secrecy.
const OUTDATED_SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-DES-CBC3-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA256",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

const CURVES: &[(NamedGroup, &str)] = &[
    (NamedGroup::X25519MLKEM768, "X25519MLKEM768"),
    (NamedGroup::X25519, "X25519"),
    (NamedGroup::secp256r1, "P-256"),
    (NamedGroup::secp384r1, "P-384"),
];

/// The suite of a name, IANA's or OpenSSL's.
pub(super) fn suite(name: &str) -> Option<CipherSuite> {
    let found = SUITES
        .iter()
        .find(|names| names.iana == name || names.openssl == name)?;
    Some(found.suite)
}

/// Whether it is a suite that Istio knows and nobody should use any more.
pub(super) fn is_outdated_suite(name: &str) -> bool {
    OUTDATED_SUITES.contains(&name)
}

/// The name that IANA gives a suite. rustls spells TLS 1.3's with `TLS13_`, to
/// tell them from TLS 1.2's.
pub(in crate::tls) fn iana(suite: CipherSuite) -> &'static str {
    let found = SUITES.iter().find(|names| names.suite == suite);
    // The library has no other suite.
    found.map_or("unknown", |names| names.iana)
}

/// The name in which a suite is written in settings.
pub(super) fn written(suite: CipherSuite) -> &'static str {
    let found = SUITES.iter().find(|names| names.suite == suite);
    found.map_or("unknown", |names| names.openssl)
}

/// The key exchange of a curve's name.
pub(super) fn curve(name: &str) -> Option<NamedGroup> {
    let found = CURVES.iter().find(|(_, word)| *word == name)?;
    Some(found.0)
}

/// The name in which a key exchange is written in settings.
pub(super) fn curve_word(group: NamedGroup) -> &'static str {
    let found = CURVES.iter().find(|(it, _)| *it == group);
    found.map_or("unknown", |(_, word)| word)
}
