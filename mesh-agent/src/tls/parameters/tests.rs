//! Settings in words.

mod handshakes;

use super::*;

/// What `meshMTLS` says, in the order of its fields.
type Said<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

fn read((minimum, suites, curves): Said<'_>) -> Result<TlsSettings, Vec<TlsSettingError>> {
    let own = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let (suites, curves) = (own(suites), own(curves));
    TlsSettings::read(TlsWords {
        minimum: (!minimum.is_empty()).then_some(minimum),
        suites: &suites,
        curves: &curves,
    })
}

fn parameters(said: Said<'_>) -> Parameters {
    Parameters::new(read(said).unwrap_or_else(|errors| panic!("{said:?}: {errors:?}")))
}

#[test]
fn the_default_is_tls_1_3_with_the_hybrid_first() {
    let default = TlsSettings::default();
    assert_eq!(default.minimum(), TlsVersion::Tls13);
    assert_eq!(default.curve_names().next(), Some("X25519MLKEM768"));
    for words in ["", "TLS_AUTO", "TLSV1_3"] {
        assert_eq!(read((words, &[], &[])), Ok(default.clone()), "{words:?}");
    }
}

#[test]
fn what_cannot_be_is_said_by_its_field_with_a_cure_all_at_once() {
    let table: [(Said<'_>, &[&str]); 12] = [
        (
            ("TLSV1_1", &[], &[]),
            &["minProtocolVersion: \"TLSV1_1\" is refused: TLS 1.0 and 1.1 (RFC 8996)"],
        ),
        (
            ("TLSV1_0", &[], &[]),
            &["minProtocolVersion: \"TLSV1_0\" is refused"],
        ),
        (
            ("SSLV3", &[], &[]),
            &["minProtocolVersion: \"SSLV3\" is refused"],
        ),
        (
            ("1.3", &[], &[]),
            &["minProtocolVersion: \"1.3\" names no version"],
        ),
        (
            ("", &["RC4-MD5"], &[]),
            &["cipherSuites[0]: \"RC4-MD5\" names no cipher suite"],
        ),
        (
            ("", &["TLS_AES_128_GCM_SHA256", "AES128-SHA"], &[]),
            &[
                "cipherSuites[1]: \"AES128-SHA\" is refused: its key exchange has no forward secrecy",
            ],
        ),
        (
            ("", &[], &["P-256", "P-521"]),
            &["ecdhCurves[1]: \"P-521\" names no key exchange"],
        ),
        (
            ("TLSV1_2", &["TLS_AES_128_GCM_SHA256"], &[]),
            &["cipherSuites: the list names no suite of TLS 1.2"],
        ),
        (
            ("", &["ECDHE-RSA-AES128-GCM-SHA256"], &[]),
            &["cipherSuites: the list names no suite of TLS 1.3"],
        ),
        (
            ("TLSV1_2", &["ECDHE-RSA-AES128-GCM-SHA256"], &[]),
            &["cipherSuites: the list names no suite of TLS 1.3"],
        ),
        (
            ("TLSV1_2", &[], &["X25519MLKEM768"]),
            &["ecdhCurves: the list names no key exchange that TLS 1.2 can do"],
        ),
        (
            ("SSLV2", &["a"], &["b", "c"]),
            &[
                "minProtocolVersion: ",
                "cipherSuites[0]: ",
                "ecdhCurves[0]: ",
                "ecdhCurves[1]: ",
            ],
        ),
    ];
    for (said, expected) in table {
        let errors = read(said).expect_err("took what cannot be");
        assert_eq!(errors.len(), expected.len(), "{said:?}: {errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            let line = format!("{}: {error}", error.field());
            assert!(line.starts_with(expected), "{line} is not {expected}");
            assert!(!error.cure().is_empty());
        }
    }
}

#[test]
fn a_store_counts_what_is_a_change() {
    let store = ParametersStore::new(TlsSettings::default());
    let told = store.subscribe();
    assert_eq!(store.current().number(), 0);
    store.set(TlsSettings::default());
    assert_eq!(store.current().number(), 0);
    assert!(!told.has_changed().unwrap());
    store.set(read(("TLSV1_2", &[], &[])).unwrap());
    assert_eq!(store.current().number(), 1);
    assert_eq!(*told.borrow(), 1);
    assert_eq!(store.current().settings().minimum(), TlsVersion::Tls12);
}

#[cfg(not(feature = "fips"))]
#[test]
fn an_ordinary_build_does_not_claim_to_be_approved() {
    let status = crate::tls::fips_status();
    assert!(!status.built && !status.active);
    assert!(read(("", &["TLS_CHACHA20_POLY1305_SHA256"], &["X25519"])).is_ok());
}

#[cfg(feature = "fips")]
#[test]
fn a_fips_build_offers_and_takes_approved_things_only() {
    let status = crate::tls::fips_status();
    assert!(status.built && status.active, "{status:?}");
    let default = TlsSettings::default();
    let curves: Vec<_> = default.curve_names().collect();
    assert_eq!(curves, ["X25519MLKEM768", "P-256", "P-384"]);
    assert!(default.suite_names().all(|name| !name.contains("CHACHA20")));
    for said in [
        ("", &["TLS_CHACHA20_POLY1305_SHA256"][..], &[][..]),
        ("TLSV1_2", &["ECDHE-ECDSA-CHACHA20-POLY1305"], &[]),
        ("", &[], &["X25519"]),
    ] {
        let errors = read(said).expect_err("took what is not approved");
        let [error] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert!(error.to_string().contains("is not approved"), "{error}");
        assert!(!error.cure().contains("CHACHA20") && !error.cure().contains("X25519,"));
    }
    for said in [("", &[][..], &["P-256"][..]), ("TLSV1_2", &[], &[])] {
        assert!(parameters(said).fips(), "{said:?}");
    }
}
