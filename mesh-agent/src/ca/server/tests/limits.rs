//! What strangers and slow clients can hold, and for how long.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_prost::ProstCodec;

use super::callers::{TOKEN, channel, connection, web, with};
use super::{Rules, Running, soon};
use crate::ca::api::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::identity::CertificateAuthority;
use crate::identity::fixtures::id;

/// The clock runs as fast as it can while everybody waits.
#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_closed() {
    let server = Running::start(Rules::default()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // Somebody else is served meanwhile.
    soon(server.client().issue(&id("web"))).await.unwrap();
    tokio::time::pause();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
}

/// A call whose caller can never be checked ends with its deadline, and holds the
/// connection no longer.
#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    let silent = Rules {
        silent: true,
        ..Rules::default()
    };
    let server = Running::start(silent).await;
    let mut grpc = channel(&server).await;
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::new();
    tokio::time::pause();
    let status = grpc
        .unary(with(TOKEN, web()), path, codec)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// Who shakes hands and then proves nothing is sent away.
#[tokio::test]
async fn a_connection_on_which_nobody_proves_anything_is_closed() {
    let server = Running::start(Rules::default()).await;
    let open = connection(&server).await;
    tokio::time::pause();
    while open.is_open() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn many_callers_at_once_all_get_an_answer() {
    let server = Running::start(Rules::default()).await;
    let client = server.client();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..200 {
        let client = std::sync::Arc::clone(&client);
        asking.spawn(async move { client.issue(&id(&format!("sa-{number}"))).await });
    }
    while let Some(answer) = soon(asking.join_next()).await {
        answer.unwrap().unwrap();
    }
    // The server's own, and one each.
    assert_eq!(server.authority.issued(None, true).unwrap().len(), 201);
}
