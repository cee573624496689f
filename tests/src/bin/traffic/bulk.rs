//! `traffic transfer`: many bytes both ways at once, with a SHA-256 behind each.
//!
//! The client opens with two big-endian u64: how much it sends, how much it wants. Each
//! direction is that many bytes of a pattern, and the digest of what was sent. The server adds
//! the digest of what it received. All three comparisons are the client's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use serde_json::json;

use crate::socket::{self, How};

const CHUNK: usize = 128 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to
    to: SocketAddr,
    /// Bytes in each direction
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
    /// Bytes from server to client, when other than the other way
    #[arg(long)]
    down: Option<u64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (up, down) = (options.bytes, options.down.unwrap_or(options.bytes));
    let start = Instant::now();
    let (mut stream, _) =
        socket::connect(options.to, &How::default(), b"").context("connecting")?;
    stream.write_all(&up.to_be_bytes())?;
    stream.write_all(&down.to_be_bytes())?;
    let mut writer = stream.try_clone()?;
    let sender = std::thread::spawn(move || {
        let digest = send_pattern(&mut writer, up)?;
        writer.write_all(digest.as_ref())?;
        writer.shutdown(Shutdown::Write)?;
        io::Result::Ok(digest)
    });
    let received = receive(&mut stream, down).context("receiving")?;
    let server_sent =
        read_digest(&mut stream).context("reading the digest of what the server sent")?;
    let server_received =
        read_digest(&mut stream).context("reading the digest of what the server received")?;
    let rest = stream.read(&mut [0])?;
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))?
        .context("sending")?;
    let equal = sent.as_ref() == server_received && received.as_ref() == server_sent && rest == 0;
    println!(
        "{}",
        json!({"sent": up, "received": down, "equal": equal, "sent_sha256": hex(sent.as_ref()), "server_received_sha256": hex(&server_received),
               "server_sent_sha256": hex(&server_sent), "received_sha256": hex(received.as_ref()), "seconds": start.elapsed().as_secs_f64()})
    );
    Ok(())
}

/// The server's side of one connection.
pub(crate) fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let [up, down] = [0, 8].map(|at| {
        head[at..at + 8]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    });
    let mut writer = stream.try_clone()?;
    let sender = std::thread::spawn(move || {
        let digest = send_pattern(&mut writer, down)?;
        writer.write_all(digest.as_ref())?;
        io::Result::Ok(writer)
    });
    let received = receive(&mut stream, up)?;
    let client_sent = read_digest(&mut stream)?;
    let mut writer = sender
        .join()
        .map_err(|_| io::Error::other("the sender panicked"))??;
    writer.write_all(received.as_ref())?;
    writer.shutdown(Shutdown::Write)?;
    if received.as_ref() != client_sent {
        return Err(io::Error::other("what came is not what was sent"));
    }
    Ok(())
}

/// Sends `bytes` that do not repeat within a chunk or between chunks; gives their digest.
pub(crate) fn send_pattern(writer: &mut impl Write, bytes: u64) -> io::Result<digest::Digest> {
    let mut hash = digest::Context::new(&SHA256);
    // A linear congruential generator (Knuth's MMIX constants): no two chunks are alike, so
    // that a lost, doubled or swapped one shows.
    let mut state = bytes ^ 0x1573_a35b;
    let mut chunk = vec![0; CHUNK];
    for word in chunk.chunks_exact_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_be_bytes());
    }
    let mut left = bytes;
    while left > 0 {
        chunk[..8].copy_from_slice(&left.to_be_bytes());
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        hash.update(&chunk[..part]);
        writer.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(hash.finish())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn receive(reader: &mut impl Read, bytes: u64) -> io::Result<digest::Digest> {
    let mut hash = digest::Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let read = reader.read(&mut chunk[..most])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{left} of {bytes} bytes missing"),
            ));
        }
        hash.update(&chunk[..read]);
        left -= read as u64;
    }
    Ok(hash.finish())
}

fn read_digest(reader: &mut impl Read) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
    let mut digest = [0; SHA256_OUTPUT_LEN];
    reader.read_exact(&mut digest)?;
    Ok(digest)
}
