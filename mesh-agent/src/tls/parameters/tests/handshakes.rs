//! Handshakes in memory between all that can be said.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConnection, NamedGroup, RootCertStore, ServerConnection, version};

use super::{parameters, read};
use crate::identity::fixtures::{TestCa, leaf_params};
use crate::tls::{HandshakeFailure, Parameters, provider};

/// What two ends agreed on: the version, the suite, the key exchange.
type Agreed = (&'static str, &'static str, NamedGroup);

/// A handshake in memory, as each end ends it.
fn handshake(
    client: &Parameters,
    server: &Parameters,
) -> (
    Result<Agreed, HandshakeFailure>,
    Result<Agreed, HandshakeFailure>,
) {
    let ca = TestCa::new("cluster.local");
    let mut leaf = leaf_params(&[]);
    leaf.subject_alt_names = vec![rcgen::SanType::DnsName("peer.test".try_into().unwrap())];
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(4000, 1, 1);
    let identity = ca.sign(leaf);
    let mut roots = RootCertStore::empty();
    roots.add(ca.bundle().roots()[0].clone()).unwrap();
    let time = || Arc::new(DefaultTimeProvider);

    let mut config = client
        .client(time())
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.require_ems = true;
    let name = ServerName::try_from("peer.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut config = server
        .server(time())
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.require_ems = true;
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();

    let mut results = (Ok(()), Ok(()));
    while results.0.is_ok()
        && results.1.is_ok()
        && (client.is_handshaking() || server.is_handshaking())
    {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        results.1 = feed(&mut server, &wire);
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        results.0 = feed(&mut client, &wire);
    }
    // The alert of a server that has not seen it yet.
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    if results.1.is_ok() {
        results.1 = feed(&mut server, &wire);
    }
    (
        results.0.map(|()| agreed(&client)),
        results.1.map(|()| agreed(&server)),
    )
}

fn feed<D>(
    connection: &mut rustls::ConnectionCommon<D>,
    mut wire: &[u8],
) -> Result<(), HandshakeFailure> {
    while !wire.is_empty() {
        connection.read_tls(&mut wire).unwrap();
        connection
            .process_new_packets()
            .map_err(|error| HandshakeFailure::from(&error))?;
    }
    Ok(())
}

fn agreed(connection: &rustls::CommonState) -> Agreed {
    (
        provider::version_name(connection.protocol_version()),
        provider::suite_name(connection.negotiated_cipher_suite()),
        connection.negotiated_key_exchange_group().unwrap().name(),
    )
}

#[test]
fn handshakes_between_all_pairs_of_settings() {
    const HYBRID: NamedGroup = NamedGroup::X25519MLKEM768;
    const P256: NamedGroup = NamedGroup::secp256r1;
    const P384: NamedGroup = NamedGroup::secp384r1;
    let default = parameters(("", &[], &[]));
    let with_12 = parameters(("TLSV1_2", &[], &[]));
    let hybrid_only = parameters(("", &[], &["X25519MLKEM768"]));
    let p384_first = parameters(("", &[], &["P-384", "P-256"]));
    let p256_only = parameters(("", &[], &["P-256"]));
    let aes_128 = parameters(("", &["TLS_AES_128_GCM_SHA256"], &[]));
    let aes_256 = parameters(("", &["TLS_AES_256_GCM_SHA384"], &[]));
    let (best, small) = ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256");
    let all = [
        ("default", &default),
        ("1.2 too", &with_12),
        ("hybrid only", &hybrid_only),
        ("P-384 first", &p384_first),
        ("P-256 only", &p256_only),
        ("AES-128", &aes_128),
        ("AES-256", &aes_256),
    ];
    // What the client and the server of a pair agree on; nothing where they cannot.
    let expected = |client: &str, server: &str| -> Option<(&str, NamedGroup)> {
        let suite = match (client, server) {
            ("AES-128", "AES-256") | ("AES-256", "AES-128") => return None,
            ("AES-128", _) | (_, "AES-128") => small,
            _ => best,
        };
        let group = match (client, server) {
            ("hybrid only", "P-384 first" | "P-256 only")
            | ("P-384 first" | "P-256 only", "hybrid only") => return None,
            ("P-256 only", _) | (_, "P-256 only") => P256,
            // Of what both have, the client's order decides.
            ("P-384 first", _) => P384,
            (_, "P-384 first") => P256,
            _ => HYBRID,
        };
        Some((suite, group))
    };
    for (from, client) in all {
        for (to, server) in all {
            let (client, server) = handshake(client, server);
            match expected(from, to) {
                Some((suite, group)) => {
                    let agreed = ("TLSv1.3", suite, group);
                    assert_eq!(client.unwrap(), agreed, "{from} to {to}");
                    assert_eq!(server.unwrap(), agreed, "{from} to {to}");
                }
                None => {
                    let server = server.expect_err("agreed on what one end does not have");
                    assert!(
                        matches!(server, HandshakeFailure::Incompatible(_)),
                        "{from} to {to}: {server:?}"
                    );
                    let client = client.expect_err("agreed on what one end does not have");
                    assert!(
                        matches!(client, HandshakeFailure::RefusedByPeer(_)),
                        "{from} to {to}: {client:?}"
                    );
                }
            }
        }
    }
}

/// A peer that is left at TLS 1.2, which no settings of ours can be.
fn only_12() -> Parameters {
    let settings = read(("TLSV1_2", &[], &["P-256"])).unwrap();
    let mut only = Parameters::new(settings);
    let mut provider = CryptoProvider::clone(&only.provider);
    provider
        .cipher_suites
        .retain(|suite| suite.version() == &version::TLS12);
    only.provider = Arc::new(provider);
    only
}

#[test]
fn tls_1_2_is_spoken_only_where_it_is_asked_for() {
    let (old, default) = (only_12(), parameters(("", &[], &[])));
    let with_12 = parameters(("TLSV1_2", &[], &[]));
    let agreed = (
        "TLSv1.2",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        NamedGroup::secp256r1,
    );
    for (client, server) in [(&old, &with_12), (&with_12, &old), (&old, &old)] {
        let (client, server) = handshake(client, server);
        assert_eq!(client.unwrap(), agreed);
        assert_eq!(server.unwrap(), agreed);
    }
    let (client, server) = handshake(&old, &default);
    assert!(
        matches!(server, Err(HandshakeFailure::Incompatible(_))),
        "{server:?}"
    );
    assert!(
        matches!(client, Err(HandshakeFailure::RefusedByPeer(_))),
        "{client:?}"
    );
    let (client, server) = handshake(&default, &old);
    assert!(client.is_err() && server.is_err(), "{client:?} {server:?}");
}

#[test]
fn suites_are_taken_by_either_name_and_only_those_named() {
    let suite = "ECDHE-ECDSA-AES128-GCM-SHA256";
    let iana = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let new = "TLS_AES_128_GCM_SHA256";
    let by_openssl = read(("TLSV1_2", &[suite, new], &[])).unwrap();
    let by_iana = read(("TLSV1_2", &[iana, new, iana], &[])).unwrap();
    assert_eq!(by_openssl, by_iana);
    assert_eq!(by_openssl.suite_names().collect::<Vec<_>>(), [suite, new]);
    let (client, _) = handshake(&only_12(), &Parameters::new(by_openssl));
    assert_eq!(client.unwrap().1, iana);
}
