//! What the authority gives: certificates, trust, and its own server's certificate.

use std::sync::Arc;
use std::time::Duration;

use super::{Rules, Running, soon};
use crate::ca::Reason;
use crate::ca::authorize::FolderAuthorizer;
use crate::ca::client::TrustFrom;
use crate::ca::tokens::{TokenFile, Which};
use crate::identity::fixtures::{HOUR, domain, epoch, id};
use crate::identity::{CertificateAuthority, DomainTrust, Revocation, TrustStore};

async fn becomes(store: &TrustStore, wanted: impl Fn(&DomainTrust) -> bool) {
    let mut changes = store.subscribe();
    let arrived = changes.wait_for(|_| {
        let now = store.current();
        now.domain(store.own()).is_some_and(|domain| wanted(domain))
    });
    soon(arrived).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_issued_end_to_end_and_written_down() {
    let server = Running::start(Rules::default()).await;
    let client = server.client();
    let issued = soon(client.issue(&id("web"))).await.unwrap();
    assert_eq!(issued.svid.id(), &id("web"));
    let entries = server.authority.issued(None, true).unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry.serial == issued.svid.serial());
    let entry = entry.expect("the journal has it");
    assert_eq!(entry.identity, id("web").to_string());
    assert_eq!(entry.node, "node-1");
}

/// The whole of a folder-configured mesh: a node's token, the pods of its folder.
#[tokio::test]
async fn a_node_gets_certificates_for_its_own_pods_only() {
    let config = tempfile::tempdir().unwrap();
    let pods = [("web", "node-1", 1), ("db", "node-2", 2)].map(|(name, node, host)| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{nodeName: {node}, serviceAccountName: {name}}}\n\
             status: {{podIP: 10.0.0.{host}}}\n"
        )
    });
    std::fs::write(config.path().join("pods.yaml"), pods.join("---\n")).unwrap();
    let server =
        Running::start_with(|dir| Arc::new(FolderAuthorizer::open(dir, config.path()).unwrap()))
            .await;
    let tokens = TokenFile::new(&server.dir.path().join("ca"));
    let token = tokens.create("node-1").unwrap();
    server.set_token(&token.text);
    let client = server.client();
    soon(client.issue(&id("web"))).await.unwrap();
    let error = soon(client.issue(&id("db"))).await.unwrap_err().to_string();
    for part in ["PermissionDenied", "node node-1", "sa/db"] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    assert!(!error.contains(token.text.as_str()), "{error}");
    tokens.revoke(&Which::Id(token.id.clone())).unwrap();
    let error = soon(client.issue(&id("web")))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("Unauthenticated"), "{error}");
}

#[tokio::test]
async fn a_revocation_is_told_to_who_watches() {
    let server = Running::start(Rules::default()).await;
    let client = server.client();
    let store = TrustStore::new(domain("cluster.local"));
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |domain| {
        matches!(domain.revocation, Revocation::Lists(_))
    })
    .await;
    assert_eq!(client.health().trust_from, TrustFrom::Watch);
    let before = store.current();
    let trusted = server.authority.trust().unwrap();
    assert_eq!(
        *store.current().domain(store.own()).unwrap().as_ref(),
        trusted.domain
    );
    assert_eq!(store.current().issuer(), trusted.issuer.as_ref());

    let issued = soon(client.issue(&id("web"))).await.unwrap();
    let serial = issued.svid.serial();
    server
        .authority
        .revoke_serial(serial, Reason::KeyCompromise)
        .unwrap();
    let before = Arc::clone(before.domain(store.own()).unwrap());
    becomes(&store, |domain| domain.revocation != before.revocation).await;
    let told = server.authority.trust().unwrap();
    assert_eq!(
        store.current().domain(store.own()).unwrap().as_ref(),
        &told.domain
    );
    following.abort();
}

#[tokio::test]
async fn the_servers_own_certificate_is_renewed_under_open_connections() {
    let mut server = Running::start(Rules::default()).await;
    let old = server.client();
    soon(old.issue(&id("web"))).await.unwrap();
    let first = server.serial.borrow().clone();
    // Another issuer is the other reason for a new certificate, and told at once.
    server.authority.rotate_intermediate(None, true).unwrap();
    soon(server.serial.wait_for(|serial| *serial != first))
        .await
        .unwrap();
    soon(old.issue(&id("web"))).await.unwrap();
    soon(server.client().issue(&id("web"))).await.unwrap();
}

#[tokio::test]
async fn the_servers_own_certificate_is_renewed_by_time() {
    let mut server = Running::start(Rules::default()).await;
    let first = server.serial.borrow().clone();
    server.clock.set(epoch() + 13 * HOUR);
    // Only now, with the server at rest, and only until it has noticed.
    tokio::time::pause();
    let renewed = server.serial.wait_for(|serial| *serial != first);
    tokio::time::timeout(Duration::from_secs(3600), renewed)
        .await
        .unwrap()
        .unwrap();
    tokio::time::resume();
    soon(server.client().issue(&id("web"))).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_with_its_watchers() {
    let server = Running::start(Rules::default()).await;
    let client = server.client();
    let store = TrustStore::new(domain("cluster.local"));
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |_| true).await;
    server.stop.send_replace(true);
    soon(server.task).await.unwrap();
    assert!(soon(client.issue(&id("web"))).await.is_err());
    following.abort();
}
