//! Both ends of a tunnel against each other and against plain HTTP/2.

mod flow;
mod hostile;
mod interop;
mod lifetime;
mod shares;

use bytes::Bytes;

use super::testing::{local, read_all, request, stream, tunnel};
use super::{
    Baggage, BaggageFields, ConnectRequest, OpenError, Refusal, StreamError, TraceParent,
    TunnelSettings, WorkloadKind,
};
use crate::addr::ClientAddr;

const CANCEL: StreamError = StreamError::Reset { code: 8 };

#[test]
fn a_request_arrives_as_it_was_made() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        for destination in ["10.0.0.2:8080", "[fd00::2]:443"] {
            let asked = ConnectRequest {
                destination: destination.parse().unwrap(),
                forwarded_for: Some(ClientAddr("10.0.0.1:40000".parse().unwrap())),
                baggage: Baggage::new(BaggageFields {
                    namespace: Some("shop".into()),
                    workload: Some((WorkloadKind::Pod, "web".into())),
                    ..BaggageFields::default()
                }),
                traceparent: Some(TraceParent::generate()),
            };
            let (near, (seen, _far)) = tokio::join!(client.open(&asked), async {
                let incoming = served.incoming.recv().await.unwrap();
                (incoming.request.clone(), incoming.accept())
            });
            near.unwrap();
            assert_eq!(seen.unwrap(), asked);
        }
    });
}

#[test]
fn each_side_may_finish_first_and_still_hear_the_other() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        for client_first in [true, false] {
            let (near, far) = stream(&client, &mut served).await;
            let (first, last) = if client_first {
                (near, far)
            } else {
                (far, near)
            };
            let ((mut first_read, mut first), (mut last_read, mut last)) =
                (first.split(), last.split());
            first.write(Bytes::from_static(b"question")).await.unwrap();
            first.finish().unwrap();
            assert_eq!(read_all(&mut last_read).await, "question");
            last.write(Bytes::from_static(b"late answer"))
                .await
                .unwrap();
            last.finish().unwrap();
            assert_eq!(read_all(&mut first_read).await, "late answer");
        }
    });
}

#[test]
fn a_refusal_arrives_with_its_status() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        for (refusal, status) in [
            (Refusal::BadRequest, 400),
            (Refusal::Unauthorized, 401),
            (Refusal::Unavailable, 503),
        ] {
            let asked = request();
            let (answer, ()) = tokio::join!(client.open(&asked), async {
                served.incoming.recv().await.unwrap().refuse(refusal);
            });
            assert_eq!(answer.unwrap_err(), OpenError::Refused { status });
        }
        assert_eq!(client.streams_in_use(), 0);
    });
}

#[test]
fn a_reset_reaches_both_halves_of_the_other_side() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        for client_resets in [true, false] {
            let (near, far) = stream(&client, &mut served).await;
            let (resetting, other) = if client_resets {
                (near, far)
            } else {
                (far, near)
            };
            let (mut read, mut write) = other.split();
            resetting.split().1.reset();
            assert_eq!(read.read().await.unwrap().unwrap_err(), CANCEL);
            let told = std::future::poll_fn(|cx| write.poll_reset(cx)).await;
            assert_eq!(told, CANCEL);
            assert_eq!(
                write.write(Bytes::from_static(b"x")).await.unwrap_err(),
                CANCEL
            );
        }
    });
}

#[test]
fn dropping_an_unfinished_stream_resets_it() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        let (near, far) = stream(&client, &mut served).await;
        let (mut read, mut write) = near.split();
        write.write(Bytes::from_static(b"half")).await.unwrap();
        let (mut far_read, far_write) = far.split();
        let first = far_read.read().await.unwrap().unwrap();
        assert_eq!(first, "half");
        drop(far_write);
        assert_eq!(read.read().await.unwrap().unwrap_err(), CANCEL);
        // The halves hold the stream's place until both are gone.
        drop(read);
        assert_eq!(client.streams_in_use(), 1);
        drop(write);
        assert_eq!(client.streams_in_use(), 0);
    });
}

#[test]
fn a_peer_that_gives_up_is_noticed_while_we_connect_for_it() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        let asked = request();
        let mut incoming = {
            let mut open = std::pin::pin!(client.open(&asked));
            tokio::select! {
                _ = &mut open => panic!("answered by nobody"),
                incoming = served.incoming.recv() => incoming.unwrap(),
            }
        };
        incoming.cancelled().await;
        assert_eq!(incoming.accept().unwrap_err(), CANCEL);
    });
}
