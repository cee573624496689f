//! Finds dead peers by HTTP/2 PING. Both ends of a tunnel run it beside their
//! connection; TCP alone would take a quarter of an hour to notice.

use super::{TunnelError, TunnelSettings};

/// Pings the peer for ever; returns only when an answer did not come in time.
/// The connection itself reports every other failure.
pub(super) async fn watch(mut pings: h2::PingPong, settings: TunnelSettings) -> TunnelError {
    loop {
        tokio::time::sleep(settings.ping_interval).await;
        let pong = pings.ping(h2::Ping::opaque());
        match tokio::time::timeout(settings.ping_timeout, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return TunnelError::KeepaliveTimeout(settings.ping_timeout),
        }
    }
}
