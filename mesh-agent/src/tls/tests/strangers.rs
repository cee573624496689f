//! Peers that do not speak TLS, or stop in the middle.

use super::*;

#[tokio::test]
async fn what_is_not_tls_is_named_so() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let junk: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 64],
        &[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x00],
    ];
    for bytes in junk {
        let (mut near, far) = duplex(PIPE);
        near.write_all(bytes).await.unwrap();
        let failure = accept(&db, far).await.expect_err("took junk");
        assert!(
            matches!(failure, HandshakeFailure::NotTls),
            "{bytes:?}: {failure:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_leaves_is_told_from_one_that_refuses() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (near, far) = duplex(PIPE);
    drop(near);
    let failure = accept(&db, far).await.expect_err("nobody was there");
    assert!(
        matches!(failure, HandshakeFailure::BrokenOff(_)),
        "{failure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (_silent, far) = duplex(PIPE);
    let failure = accept(&db, far).await.expect_err("nobody spoke");
    assert!(
        matches!(failure, HandshakeFailure::TimedOut(_)),
        "{failure:?}"
    );
    let (_silent, far) = duplex(PIPE);
    let failure = connect(&db, &id("web"), far)
        .await
        .expect_err("nobody spoke");
    assert!(
        matches!(failure, HandshakeFailure::TimedOut(_)),
        "{failure:?}"
    );
}
