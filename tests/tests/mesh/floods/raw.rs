//! HTTP/2 written frame by frame, for clients that keep no rule of it (RFC 9113 §4, §6).

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 4;

/// HTTP/2 frames written by hand.
pub(super) struct Raw {
    tls: TlsStream<TcpStream>,
    queued: Vec<u8>,
    answers: Answers,
}

impl Raw {
    pub(super) async fn start(tls: TlsStream<TcpStream>) -> Result<Self> {
        let mut raw = Self {
            tls,
            queued: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            answers: Answers::default(),
        };
        raw.queue(SETTINGS, 0, 0, &[]);
        raw.tls.write_all(&std::mem::take(&mut raw.queued)).await?;
        Ok(raw)
    }

    pub(super) fn queue(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.queued.extend_from_slice(&length.to_be_bytes()[1..]);
        self.queued.extend_from_slice(&[kind, flags]);
        self.queued.extend_from_slice(&stream.to_be_bytes());
        self.queued.extend_from_slice(payload);
    }

    /// Sends what `make` queues, up to `count` times, until the server ends the connection or
    /// says GOAWAY; gives how often that was. Reads along, so that it is not we who block.
    pub(super) async fn flood(&mut self, count: u32, make: impl Fn(&mut Self, u32)) -> Result<u32> {
        for n in 0..count {
            make(self, n);
            if self.queued.len() < 16 * 1024 && n + 1 < count {
                continue;
            }
            let data = std::mem::take(&mut self.queued);
            let (mut read, mut write) = tokio::io::split(&mut self.tls);
            let mut buffer = vec![0; 16 * 1024];
            let send = write.write_all(&data);
            tokio::pin!(send);
            loop {
                tokio::select! {
                    biased;
                    got = read.read(&mut buffer) => match got {
                        Ok(0) | Err(_) => return Ok(n),
                        Ok(length) => if self.answers.take(&buffer[..length]) { return Ok(n) },
                    },
                    sent = &mut send => match sent {
                        Ok(()) => break,
                        Err(_) => return Ok(n),
                    },
                }
            }
        }
        Ok(count)
    }

    /// Reads until so many streams were answered or refused, or the server ends the tunnel.
    pub(super) async fn read_answers(&mut self, count: u32) -> Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        while self.answers.streams < count {
            match self.tls.read(&mut buffer).await {
                Ok(length @ 1..) if !self.answers.take(&buffer[..length]) => {}
                _ => break,
            }
        }
        Ok(())
    }
}

/// The frames that the server sends, as far as they tell what it made of ours.
#[derive(Default)]
struct Answers {
    partial: Vec<u8>,
    /// Streams that got HEADERS or RST_STREAM.
    streams: u32,
}

impl Answers {
    /// Takes the next bytes; true when there is a GOAWAY among them.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.partial.extend_from_slice(bytes);
        while let Some((head, _)) = self.partial.split_at_checked(9) {
            let (length, kind) = (u32::from_be_bytes([0, head[0], head[1], head[2]]), head[3]);
            let Some((_, rest)) = self.partial.split_at_checked(9 + length as usize) else {
                return false;
            };
            self.partial = rest.to_vec();
            match kind {
                GOAWAY => return true,
                HEADERS | RST_STREAM => self.streams += 1,
                _ => {}
            }
        }
        false
    }
}

/// A CONNECT in HPACK (RFC 7541): two literals without indexing, named by the static table.
pub(super) fn connect_block(authority: &str) -> Vec<u8> {
    let mut block = vec![0x02, 7];
    block.extend_from_slice(b"CONNECT");
    block.extend_from_slice(&[0x01, u8::try_from(authority.len()).unwrap_or(u8::MAX)]);
    block.extend_from_slice(authority.as_bytes());
    block
}
