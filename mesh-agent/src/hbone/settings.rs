//! The limits and times of one tunnel, for both ends. The agent takes the
//! defaults; tests set smaller ones.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::PodBudget;

/// Limits of one tunnel. `max_streams × largest_window` never exceeds
/// `connection_window`: even if every stream's reader has stalled with a full
/// window, the connection's window still has room for none to wait on another.
/// What the streams hold together is bounded by `tunnel_room` as a rule, and by the
/// pod's budget in any case.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// Bytes a peer may send on a new tunnel's streams before we have passed any on.
    pub stream_window: u32,
    /// The same near the pod's budget, and with very many streams.
    pub smallest_window: u32,
    /// The same while readers read quickly.
    pub largest_window: u32,
    /// Bytes that the windows of all streams come to, but for `smallest_window` each.
    pub tunnel_room: u64,
    /// Bytes a peer may send on all streams before we have passed any on.
    pub connection_window: u32,
    /// Largest frame we take, in bytes (HTTP/2 allows 16 KiB to 16 MiB - 1).
    /// As large as the relay's largest buffer, so that one read is one frame.
    pub max_frame: u32,
    /// Streams at once. Not below 100: ztunnel puts that many on a tunnel
    /// (`POOL_MAX_STREAMS_PER_CONNECTION`) before it has seen our SETTINGS.
    pub max_streams: u32,
    /// Largest header list we take, in bytes as RFC 9113 §6.5.2 counts them;
    /// a larger one is answered with 431.
    pub max_header_list: u32,
    /// Bytes queued for sending on one stream.
    pub send_buffer: usize,
    /// Time for the peer to finish the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// Time for the peer to answer a CONNECT. It answers only when its
    /// application has accepted, so this is longer than a TCP connect takes.
    pub open_timeout: Duration,
    /// Time between the answer to a PING and the next PING.
    pub ping_interval: Duration,
    /// Time for the peer to answer a PING.
    pub ping_timeout: Duration,
    /// How long a served tunnel may stay without a stream.
    pub serve_idle: Duration,
    /// The pod's budget of buffered bytes, near which windows are small.
    pub budget: Option<Arc<PodBudget>>,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            stream_window: 256 << 10,
            smallest_window: 64 << 10,
            largest_window: 1 << 20,
            tunnel_room: 16 << 20,
            connection_window: 128 << 20,
            max_frame: 256 << 10,
            max_streams: 128,
            max_header_list: 32 << 10,
            send_buffer: 256 << 10,
            handshake_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            serve_idle: Duration::from_secs(600),
            budget: None,
        }
    }
}
