//! How connections end: in order, by reset, by loss of the tunnel, by a cut.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{RelayCause, reset};
use super::{assert_reset, assert_reset_untouched, chain, plain, write_until_stuck};
use crate::hbone::testing::{local, tcp_pair};

#[test]
fn either_application_may_finish_first_and_still_hear_the_other() {
    local(async {
        for left_first in [true, false] {
            let chain = chain().await;
            let (mut first, mut last) = if left_first {
                (chain.left, chain.right)
            } else {
                (chain.right, chain.left)
            };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut heard = Vec::new();
            last.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"question");
            last.write_all(b"late answer").await.unwrap();
            last.shutdown().await.unwrap();
            heard.clear();
            first.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"late answer");
            for (side, sent) in [
                (chain.left_side, left_first),
                (chain.right_side, !left_first),
            ] {
                let end = side.end.await.unwrap();
                assert!(matches!(end.cause, RelayCause::Finished), "{end:?}");
                let bytes = (
                    side.meter.sent.load(Ordering::Relaxed),
                    side.meter.received.load(Ordering::Relaxed),
                );
                assert_eq!(bytes, if sent { (8, 11) } else { (11, 8) });
            }
        }
    });
}

#[test]
fn a_reset_reaches_the_other_application() {
    local(async {
        for left_resets in [true, false] {
            let chain = chain().await;
            let (resetting, mut other, near, far) = if left_resets {
                (chain.left, chain.right, chain.left_side, chain.right_side)
            } else {
                (chain.right, chain.left, chain.right_side, chain.left_side)
            };
            reset(resetting);
            assert_reset(&mut other).await;
            let end = near.end.await.unwrap();
            assert!(matches!(end.cause, RelayCause::AppReset), "{end:?}");
            let end = far.end.await.unwrap();
            assert!(matches!(end.cause, RelayCause::PeerReset), "{end:?}");
        }
    });
}

#[test]
fn a_reset_after_a_half_close_still_reaches_the_other_application() {
    local(async {
        let mut chain = chain().await;
        chain.left.shutdown().await.unwrap();
        let mut heard = Vec::new();
        chain.right.read_to_end(&mut heard).await.unwrap();
        reset(chain.left);
        // Nobody reads or writes any more: only the socket's error can tell.
        assert_reset_untouched(&chain.right).await;
        let end = chain.left_side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::AppReset), "{end:?}");
    });
}

#[test]
fn a_reset_is_noticed_while_the_peer_makes_us_wait() {
    local(async {
        for sender_resets in [true, false] {
            let mut chain = chain().await;
            // Nobody reads on the right.
            write_until_stuck(&mut chain.left, &chain.left_side.meter).await;
            let (near, far) = if sender_resets {
                reset(chain.left);
                assert_reset_untouched(&chain.right).await;
                (chain.left_side, chain.right_side)
            } else {
                reset(chain.right);
                assert_reset_untouched(&chain.left).await;
                (chain.right_side, chain.left_side)
            };
            let end = near.end.await.unwrap();
            assert!(matches!(end.cause, RelayCause::AppReset), "{end:?}");
            let end = far.end.await.unwrap();
            assert!(matches!(end.cause, RelayCause::PeerReset), "{end:?}");
        }
    });
}

#[test]
fn losing_the_tunnel_resets_both_applications() {
    local(async {
        let mut chain = chain().await;
        chain.served.end.abort();
        assert_reset(&mut chain.left).await;
        assert_reset(&mut chain.right).await;
        for side in [chain.left_side, chain.right_side] {
            let end = side.end.await.unwrap();
            assert!(matches!(end.cause, RelayCause::TunnelLost), "{end:?}");
        }
    });
}

#[test]
fn a_cut_resets_both_applications() {
    local(async {
        let mut chain = chain().await;
        chain.left_side.cut.send(()).unwrap();
        assert_reset(&mut chain.left).await;
        assert_reset(&mut chain.right).await;
        let end = chain.left_side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::Cut), "{end:?}");
        let end = chain.right_side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::PeerReset), "{end:?}");
    });
}

#[test]
fn plain_connections_end_likewise() {
    local(async {
        let (mut left, mut right, side) = plain().await;
        left.write_all(b"question").await.unwrap();
        left.shutdown().await.unwrap();
        let mut heard = Vec::new();
        right.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        right.write_all(b"late answer").await.unwrap();
        right.shutdown().await.unwrap();
        heard.clear();
        left.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"late answer");
        let end = side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::Finished), "{end:?}");
        assert_eq!(side.meter.sent.load(Ordering::Relaxed), 8);
        assert_eq!(side.meter.received.load(Ordering::Relaxed), 11);

        let (left, mut right, side) = plain().await;
        reset(left);
        assert_reset(&mut right).await;
        let end = side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::AppReset), "{end:?}");

        let (mut left, right, side) = plain().await;
        reset(right);
        assert_reset(&mut left).await;
        let end = side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::PeerReset), "{end:?}");

        let (mut left, mut right, side) = plain().await;
        side.cut.send(()).unwrap();
        assert_reset(&mut left).await;
        assert_reset(&mut right).await;
        let end = side.end.await.unwrap();
        assert!(matches!(end.cause, RelayCause::Cut), "{end:?}");
    });
}

#[test]
fn a_refused_application_sees_a_reset_and_not_an_end() {
    local(async {
        let (mut app, ours) = tcp_pair().await;
        reset(ours);
        assert_reset(&mut app).await;
    });
}
