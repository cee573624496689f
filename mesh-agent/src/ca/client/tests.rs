mod fake;
mod trust;

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;

use super::*;
use crate::ca::api::{CREATE_CERTIFICATE, CertificateResponse, TrustMessage, certificate};
use crate::identity::fixtures::{TestCa, epoch, id, leaf_params};
use fake::{Behaviour, FakeCa, Node, Script, honest, soon};

fn istio(certify: Script) -> Behaviour {
    Behaviour {
        certify,
        trust: None,
        web: false,
    }
}

async fn refused(client: &Arc<RemoteCa>) -> String {
    let error = soon(client.issue(&id("web"))).await.unwrap_err();
    assert!(matches!(error, IssueError::Authority { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_certificate_is_asked_for_on_behalf_of_the_workload() {
    let ca = Arc::new(TestCa::new("cluster.local").intermediate());
    let mut server = FakeCa::start(&ca, istio(honest(Arc::clone(&ca)))).await;
    let node = Node::new(server.address, &ca);
    let client = node.client();
    assert!(!client.health().connected);
    for account in ["web", "db"] {
        let issued = soon(client.issue(&id(account))).await.unwrap();
        assert_eq!(issued.svid.id(), &id(account));
        // Leaf and intermediate: the root that was sent along is nobody's business.
        assert_eq!(issued.svid.chain().len(), 2);
        assert_eq!(
            server.calls.recv().await.unwrap(),
            (CREATE_CERTIFICATE.to_owned(), "Bearer first".to_owned())
        );
    }
    let health = client.health();
    assert!(health.connected);
    assert_eq!(
        (health.last_success, health.last_error),
        (Some(epoch()), None)
    );
}

#[tokio::test]
async fn the_token_is_read_for_each_call() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let mut server = FakeCa::start(&ca, istio(honest(Arc::clone(&ca)))).await;
    let node = Node::new(server.address, &ca);
    let client = node.client();
    soon(client.issue(&id("web"))).await.unwrap();
    node.write("token", "second");
    soon(client.issue(&id("web"))).await.unwrap();
    assert_eq!(server.calls.recv().await.unwrap().1, "Bearer first");
    assert_eq!(server.calls.recv().await.unwrap().1, "Bearer second");

    std::fs::remove_file(node.path("token")).unwrap();
    let error = refused(&client).await;
    let path = node.path("token").display().to_string();
    assert!(error.contains(&path), "{error}");
}

/// Many identities at once, as when an agent starts: one connection serves them all.
#[tokio::test]
async fn all_calls_share_a_connection() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let server = FakeCa::start(&ca, istio(honest(Arc::clone(&ca)))).await;
    let node = Node::new(server.address, &ca);
    let client = node.client();
    soon(client.issue(&id("first"))).await.unwrap();
    // Without roots no second connection could be made.
    std::fs::remove_file(node.path("roots.pem")).unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..100 {
        let client = Arc::clone(&client);
        asking.spawn(async move { client.issue(&id(&format!("sa-{number}"))).await });
    }
    while let Some(done) = soon(asking.join_next()).await {
        done.unwrap().unwrap();
    }
    assert!(refused(&node.client()).await.contains("roots.pem"));
}

#[tokio::test]
async fn a_server_that_our_roots_do_not_vouch_for_learns_no_token() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let other = TestCa::new("cluster.local");
    let mut server = FakeCa::start(&other, istio(honest(Arc::clone(&ca)))).await;
    let node = Node::new(server.address, &ca);
    let client = node.client();
    let error = refused(&client).await;
    for part in [&server.address.to_string(), "roots.pem", "not signed by"] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    assert!(server.calls.try_recv().is_err());
    assert_eq!(
        client
            .health()
            .last_error
            .as_deref()
            .map(|e| error.ends_with(e)),
        Some(true)
    );
}

#[tokio::test]
async fn what_the_authority_says_reaches_the_person() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    for (status, says) in [
        (Status::permission_denied("no such pod"), "token"),
        (Status::unauthenticated("who are you"), "token"),
        (Status::unavailable("come again"), "come again"),
    ] {
        let told = status.message().to_owned();
        let code = format!("{:?}", status.code());
        let script: Script = Arc::new(move |_| {
            let status = status.clone();
            Box::pin(async { Err(status) })
        });
        let server = FakeCa::start(&ca, istio(script)).await;
        let node = Node::new(server.address, &ca);
        let error = refused(&node.client()).await;
        for part in [&server.address.to_string(), &told, &code, says] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
}

#[tokio::test]
async fn unusable_certificates_are_refused_over_the_wire() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let wrong_identity: Script = {
        let ca = Arc::clone(&ca);
        Arc::new(move |request| {
            let uri = id("db").to_string();
            let chain = ca.certify(&request.csr, leaf_params(&[&uri]));
            let cert_chain = chain.iter().map(|der| certificate(der)).collect();
            Box::pin(async { Ok(CertificateResponse { cert_chain }) })
        })
    };
    let wrong_key: Script = {
        let ca = Arc::clone(&ca);
        Arc::new(move |_| {
            let chain = ca.identity(&id("web")).chain;
            let cert_chain = chain.iter().map(|der| certificate(der)).collect();
            Box::pin(async { Ok(CertificateResponse { cert_chain }) })
        })
    };
    let endless: Script = Arc::new(|_| {
        let cert_chain = vec!["x".repeat(1024); 1024];
        Box::pin(async { Ok(CertificateResponse { cert_chain }) })
    });
    for (script, says) in [
        (wrong_identity, "sa/db, where"),
        (wrong_key, "not of the key"),
        (endless, "OutOfRange"),
    ] {
        let server = FakeCa::start(&ca, istio(script)).await;
        let node = Node::new(server.address, &ca);
        let error = refused(&node.client()).await;
        assert!(error.contains(says), "{error} lacks {says}");
    }
}

#[tokio::test]
async fn what_is_no_authority_is_an_error() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let mut web = istio(honest(Arc::clone(&ca)));
    web.web = true;
    let server = FakeCa::start(&ca, web).await;
    let node = Node::new(server.address, &ca);
    let error = refused(&node.client()).await;
    assert!(error.contains(&server.address.to_string()), "{error}");

    // Accepts, takes what comes, and answers in another language.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let speaking = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 64]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    });
    let node = Node::new(address, &ca);
    let error = refused(&node.client()).await;
    assert!(error.contains("does not speak TLS"), "{error}");
    speaking.await.unwrap();

    // Nobody is there.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let node = Node::new(free, &ca);
    let error = refused(&node.client()).await;
    assert!(
        error.contains("cannot connect") && error.contains(&free.to_string()),
        "{error}"
    );
}

/// The clock stands until the request has arrived; then it runs as fast as it can.
#[tokio::test]
async fn an_authority_that_never_answers_is_given_up() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let silent: Script = Arc::new(|_| Box::pin(std::future::pending()));
    let mut server = FakeCa::start(&ca, istio(silent)).await;
    let node = Node::new(server.address, &ca);
    let client = node.client();
    let asking = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { refused(&client).await })
    };
    soon(server.calls.recv()).await.unwrap();
    tokio::time::pause();
    let error = asking.await.unwrap();
    assert!(error.contains(&server.address.to_string()), "{error}");
}

/// The authority goes, and comes back at the same address: the client finds it again.
#[tokio::test]
async fn an_authority_that_comes_back_is_found() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let server = FakeCa::start(&ca, istio(honest(Arc::clone(&ca)))).await;
    let address = server.address;
    let node = Node::new(address, &ca);
    let client = node.client();
    soon(client.issue(&id("web"))).await.unwrap();
    server.stop().await;
    let error = refused(&client).await;
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(!client.health().connected);
    let _server = FakeCa::start_at(address, &ca, istio(honest(Arc::clone(&ca)))).await;
    // Waits for its turn to dial, and no longer.
    soon(client.issue(&id("web"))).await.unwrap();
    assert_eq!(client.health().last_error, None);
}

/// Used by the tests of trust.
fn told(message: TrustMessage) -> (watch::Sender<TrustMessage>, Behaviour) {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let (tell, trust) = watch::channel(message);
    let mut behaviour = istio(honest(ca));
    behaviour.trust = Some(trust);
    (tell, behaviour)
}
