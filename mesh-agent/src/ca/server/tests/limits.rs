//! What strangers and slow clients can hold, and for how long.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_prost::ProstCodec;

use super::callers::{TOKEN, channel, connection, web, with};
use super::{Limits, Rules, Running, soon};
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

const FEW: Limits = Limits {
    unproved: 16,
    known: 8,
};

/// Waits until the far end has closed the connection, whatever it sends before.
async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 64];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

/// Silent connections of one address, more than there is room for: those that call from
/// elsewhere are served, and the oldest silent ones are closed.
#[tokio::test]
async fn server_serves_others_while_one_source_floods_it() {
    let server = Running::start_limited(|_| std::sync::Arc::new(Rules::default()), Some(FEW)).await;
    let dial = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(server.address).await.unwrap()
    };
    let mut silent = Vec::new();
    for _ in 0..2 * FEW.unproved {
        silent.push(dial([127, 0, 0, 9]).await);
    }
    for account in ["one", "two", "three"] {
        soon(server.client().issue(&id(account))).await.unwrap();
        silent.push(dial([127, 0, 0, 9]).await);
    }
    for connection in &mut silent[..FEW.unproved] {
        soon(closed(connection)).await;
    }
}

/// Connections of a known caller, more than there is room for: the first ones are closed, and
/// the last one is served.
#[tokio::test]
async fn server_closes_the_oldest_connection_of_a_caller_with_too_many() {
    let server = Running::start_limited(|_| std::sync::Arc::new(Rules::default()), Some(FEW)).await;
    let mut clients = Vec::new();
    for number in 0..=FEW.known {
        let client = server.client();
        soon(client.issue(&id(&format!("sa-{number}"))))
            .await
            .unwrap();
        clients.push(client);
    }
    soon(async {
        while clients[0].health().connected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(clients[FEW.known].health().connected);
}
