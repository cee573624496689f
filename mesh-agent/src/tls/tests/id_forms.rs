//! Peers whose trust domain has SPIFFE IDs of another form: those of its template are
//! accepted, and no others.

use super::peers::credential_under;
use super::*;
use crate::identity::fixtures::{domain, trusting};
use crate::identity::{IdForms, TrustStore};

/// Trust in this authority, whose IDs are of a template.
fn trust(ca: &TestCa) -> (std::sync::Arc<TrustStore>, IdForms) {
    let mut forms = IdForms::default();
    let template = "/k8s/{namespace}/{serviceAccount}".parse().unwrap();
    forms.set(domain("cluster.local"), template);
    let trust = trusting(ca);
    trust.set_id_forms(&forms);
    (trust, forms)
}

#[tokio::test]
async fn handshake_accepts_peers_of_the_template_alone() {
    let ca = TestCa::new("cluster.local");
    let (trust, forms) = trust(&ca);
    let of = |uri: &str| forms.parse(uri).unwrap();
    let web = of("spiffe://cluster.local/k8s/shop/web");
    let db = of("spiffe://cluster.local/k8s/shop/db");
    let server = credential_under(&ca, &db, &trust).await;
    let session = RawClient::with(ca.identity(&web))
        .handshake_with(&server)
        .await;
    assert_eq!(session.unwrap().peer, web);
    let session = RawServer::with(ca.identity(&web))
        .handshake_with(&server, &web)
        .await;
    assert_eq!(session.unwrap().peer, web);
    let session = RawServer::with(ca.identity(&db))
        .handshake_with(&server, &web)
        .await;
    assert!(matches!(
        session,
        Err(HandshakeFailure::WrongIdentity { .. })
    ));
    for uri in [
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/k8s/shop/web/x",
    ] {
        let peer = ca.sign(leaf_params(&[uri]));
        let refused = RawClient::with(peer).handshake_with(&server).await;
        let refused = refused.expect_err("an ID of another form was accepted");
        assert!(
            refused.to_string().contains("/k8s/{namespace}"),
            "{refused}"
        );
    }
    // Without the template, the other way round.
    trust.set_id_forms(&IdForms::default());
    let refused = RawClient::with(ca.identity(&web))
        .handshake_with(&server)
        .await;
    assert!(refused.is_err());
}
