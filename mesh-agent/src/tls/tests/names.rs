//! Peers that prove themselves with DNS names, as certificates from files may.

use std::sync::Arc;

use rcgen::SanType;

use super::peers::{acquire, credential_under};
use super::*;
use crate::identity::fixtures::{Identity, trusting};
use crate::identity::{Issued, NameProofs, Svid, SvidError, TrustStore};

fn with_names(ca: &TestCa, names: &[&str]) -> Identity {
    let mut params = leaf_params(&[]);
    let name = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(name).collect();
    ca.sign(params)
}

fn named(trust: &TrustStore, names: &[(&str, &str)]) {
    let entry = |(account, name): &(&str, &str)| (id(account), vec![(*name).to_owned()]);
    trust.set_names(NameProofs::new(names.iter().map(entry).collect()));
}

#[tokio::test]
async fn a_server_is_proven_by_the_expected_workloads_names_only() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    named(
        &trust,
        &[("db", "db.apps.local"), ("web", "web.apps.local")],
    );
    let web = credential_under(&ca, &id("web"), &trust).await;
    for (names, fine) in [
        (&["db.apps.local"][..], true),
        (&["*.apps.local"], true),
        (&["old.apps.local", "DB.apps.local"], true),
        (&["web.apps.local"], false),
        (&["*.local"], false),
    ] {
        let server = RawServer::with(with_names(&ca, names));
        match server.handshake_with(&web, &id("db")).await {
            Ok(session) => assert!(fine && session.peer == id("db"), "{names:?}"),
            Err(failure) => {
                let wrong = matches!(&failure, HandshakeFailure::WrongName { expected, presented }
                    if *expected == id("db") && *presented == names.join(", "));
                assert!(!fine && wrong, "{names:?}: {failure}");
            }
        }
    }
    // Names do not help past the chain.
    let other = TestCa::new("cluster.local");
    let server = RawServer::with(with_names(&other, &["db.apps.local"]));
    let outcome = server.handshake_with(&web, &id("db")).await;
    assert!(matches!(outcome, Err(HandshakeFailure::UntrustedRoot)));
}

#[tokio::test]
async fn a_client_is_the_one_workload_whose_name_it_has() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let db = credential_under(&ca, &id("db"), &trust).await;
    let client = RawClient::with(with_names(&ca, &["web.apps.local"]));

    let nobody = client.handshake_with(&db).await.unwrap_err();
    let unidentified = matches!(&nobody,
        HandshakeFailure::Unidentified(PeerIdentityError::NamesOfNobody(names)) if names == "web.apps.local");
    assert!(unidentified, "{nobody}");

    named(
        &trust,
        &[("web", "web.apps.local"), ("cart", "cart.apps.local")],
    );
    let session = client.handshake_with(&db).await.unwrap();
    assert_eq!(session.peer, id("web"));

    let several = RawClient::with(with_names(&ca, &["*.apps.local"]));
    let several = several.handshake_with(&db).await.unwrap_err();
    let text = several.to_string();
    assert!(
        text.contains("sa/web") && text.contains("sa/cart"),
        "{text}"
    );

    // A live tunnel goes with the name it was proven by.
    session.still_trusted(&trust.current(), epoch()).unwrap();
    named(&trust, &[("cart", "web.apps.local")]);
    let cut = session
        .still_trusted(&trust.current(), epoch())
        .unwrap_err();
    let other = matches!(&cut, HandshakeFailure::WrongIdentity { presented, .. } if *presented == id("cart"));
    assert!(other, "{cut}");
}

#[tokio::test]
async fn a_uri_decides_alone_where_there_is_one() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    named(&trust, &[("db", "db.apps.local")]);
    let web = credential_under(&ca, &id("web"), &trust).await;
    let mut params = leaf_params(&[&id("thief").to_string()]);
    params
        .subject_alt_names
        .push(SanType::DnsName("db.apps.local".try_into().unwrap()));
    let server = RawServer::with(ca.sign(params.clone()));
    let failure = server.handshake_with(&web, &id("db")).await.unwrap_err();
    let wrong = matches!(&failure, HandshakeFailure::WrongIdentity { presented, .. } if *presented == id("thief"));
    assert!(wrong, "{failure}");
    let session = RawClient::with(ca.sign(params)).handshake_with(&web).await;
    assert_eq!(session.unwrap().peer, id("thief"));
}

#[tokio::test]
async fn a_workload_may_present_a_certificate_with_names() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    named(&trust, &[("db", "db.apps.local")]);
    let names = trust.current().names().names(&id("db")).to_vec();
    let Identity { chain, key } = with_names(&ca, &["*.apps.local"]);
    let svid = Svid::named(&id("db"), &names, chain, key).unwrap();
    let issued = Issued { svid, bundle: None };
    let db = acquire(issued, epoch(), Arc::clone(&trust))
        .await
        .credential;
    let web = credential_under(&ca, &id("web"), &trust).await;
    for (client, server) in [(&web, &db), (&db, &web)] {
        let (accepted, connected) = handshake(server, client, server.id()).await;
        assert_eq!(accepted.unwrap().peer, *client.id());
        assert_eq!(connected.unwrap().peer, *server.id());
    }

    let Identity { chain, key } = with_names(&ca, &["web.apps.local"]);
    let refused = Svid::named(&id("db"), &names, chain, key).unwrap_err();
    assert!(
        matches!(refused, SvidError::NoNameMatches { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("web.apps.local")
            && refused.to_string().contains("db.apps.local")
    );
    let Identity { chain, key } = ca.identity(&id("web"));
    let refused = Svid::named(&id("db"), &names, chain, key).unwrap_err();
    assert!(
        matches!(refused, SvidError::OtherIdentity { .. }),
        "{refused}"
    );
}
