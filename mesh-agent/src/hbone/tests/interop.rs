//! Each end against plain HTTP/2, as somebody else would write it.

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::task::spawn_local;

use crate::hbone::testing::{client, local, pipe, read_all, request, serve};
use crate::hbone::{ConnectRequest, OpenError, TraceParent, TunnelSettings};

#[test]
fn our_server_serves_a_plain_client() {
    local(async {
        let (near, far) = pipe();
        let mut served = serve(far, &TunnelSettings::default());
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(connection);
        let asked = Request::builder()
            .method(Method::CONNECT)
            .uri("10.0.0.2:80")
            .header("baggage", "unknown=1;x,=,%%")
            .header("traceparent", "garbled")
            .header("forwarded", "for=\"nobody\"")
            .header("x-something-else", "1")
            .body(())
            .unwrap();
        let (answer, mut body) = sender.send_request(asked, false).unwrap();
        let incoming = served.incoming.recv().await.unwrap();
        let expected = ConnectRequest::new("10.0.0.2:80".parse().unwrap());
        assert_eq!(incoming.request, Ok(expected));
        let (mut read, mut write) = incoming.accept().unwrap().split();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        body.send_data(Bytes::from_static(b"ping"), true).unwrap();
        assert_eq!(read_all(&mut read).await, "ping");
        write.write(Bytes::from_static(b"pong")).await.unwrap();
        write.finish().unwrap();
        let mut answer = answer.into_body();
        let mut heard = Vec::new();
        while let Some(data) = answer.data().await {
            heard.extend_from_slice(&data.unwrap());
        }
        assert_eq!(heard, b"pong");
    });
}

#[test]
fn our_client_is_understood_by_a_plain_server() {
    local(async {
        let (near, far) = pipe();
        let plain = spawn_local(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (asked, mut respond) = server.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), true).unwrap();
            // The connection has to be carried on for the answer to leave.
            spawn_local(async move { while server.accept().await.is_some() {} });
            asked
        });
        let client = client(near, &TunnelSettings::default()).await;
        let traceparent = TraceParent::generate();
        let asked = ConnectRequest {
            forwarded_for: Some(crate::addr::ClientAddr("[fd00::1]:4000".parse().unwrap())),
            traceparent: Some(traceparent),
            ..request()
        };
        let (mut read, _write) = client.open(&asked).await.unwrap().split();
        let (head, _) = plain.await.unwrap().into_parts();
        assert_eq!(head.method, Method::CONNECT);
        assert_eq!(head.uri.to_string(), "10.0.0.2:8080");
        assert_eq!(head.uri.scheme(), None);
        assert_eq!(head.uri.path_and_query(), None);
        assert_eq!(head.headers["forwarded"], "for=\"[fd00::1]:4000\"");
        assert_eq!(head.headers["traceparent"], traceparent.to_string());
        assert_eq!(read_all(&mut read).await, "hello");
    });
}

#[test]
fn a_stream_refused_by_a_plain_server_is_told_apart() {
    local(async {
        for (reason, unprocessed) in [
            (h2::Reason::REFUSED_STREAM, true),
            (h2::Reason::INTERNAL_ERROR, false),
        ] {
            let (near, far) = pipe();
            spawn_local(async move {
                let mut server = h2::server::handshake(far).await.unwrap();
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    respond.send_reset(reason);
                }
            });
            let client = client(near, &TunnelSettings::default()).await;
            let error = client.open(&request()).await.unwrap_err();
            match error {
                OpenError::TunnelLost { unprocessed: u, .. } => assert!(u && unprocessed),
                OpenError::Reset { code } => {
                    assert!(!unprocessed);
                    assert_eq!(code, u32::from(reason));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
