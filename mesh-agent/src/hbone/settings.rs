//! The limits and times of one tunnel, for both ends. The agent takes the
//! defaults; tests set smaller ones.

use std::time::Duration;

/// Limits of one tunnel. `max_streams × stream_window` never exceeds
/// `connection_window`: even if every stream's reader has stalled with a full
/// window, the connection's window still has room for none to wait on another.
/// That product is also the most received data that a tunnel can hold.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// Bytes a peer may send on a stream before we have passed any on.
    pub stream_window: u32,
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
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
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
        }
    }
}
