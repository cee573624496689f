//! `traffic connect` and `traffic pingpong`: one connection, and all that the client saw.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::socket::{self, How, errno_name};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to
    to: SocketAddr,
    #[command(flatten)]
    how: How,
    /// Send this text and a newline
    #[arg(long)]
    send: Option<String>,
    /// End the own direction after sending, before reading
    #[arg(long)]
    half_close: bool,
    /// Read until the server ends, instead of one line
    #[arg(long)]
    to_end: bool,
    /// Send this text and a newline only after the server ended its direction
    #[arg(long)]
    send_late: Option<String>,
    /// Do not read at all
    #[arg(long)]
    no_read: bool,
    /// Close by a reset
    #[arg(long)]
    reset: bool,
    /// After the first answer print `holding`, then read on until the server ends or resets
    #[arg(long)]
    hold: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let first = options
        .send
        .as_ref()
        .map(|text| format!("{text}\n"))
        .unwrap_or_default();
    let (mut stream, sent) = match socket::connect(options.to, &options.how, first.as_bytes()) {
        Ok(connected) => connected,
        Err(error) => {
            println!(
                "{}",
                json!({"connected": false, "errno": errno_name(&error), "error": error.to_string()})
            );
            return Ok(());
        }
    };
    let names = (socket::local_name(&stream), socket::peer_name(&stream));
    let mut read = Vec::new();
    let result = talk(
        options,
        &mut stream,
        if sent { b"" } else { first.as_bytes() },
        &mut read,
    );
    // With Fast Open the connection is only there after the first write.
    let names = (names.0, names.1.or_else(|| socket::peer_name(&stream)));
    println!(
        "{}",
        json!({
            "connected": true,
            "getsockname": socket::local_name(&stream).or(names.0),
            "getpeername": names.1,
            "read": String::from_utf8_lossy(&read),
            "ended": matches!(result, Ok(true)),
            "errno": result.as_ref().err().map(errno_name),
            "error": result.as_ref().err().map(ToString::to_string),
        })
    );
    if options.reset {
        socket::reset_on_close(&stream)?;
    }
    Ok(())
}

/// Sends and reads as told; says whether the server ended its direction.
fn talk(
    options: &Options,
    stream: &mut std::net::TcpStream,
    first: &[u8],
    read: &mut Vec<u8>,
) -> io::Result<bool> {
    stream.write_all(first)?;
    if options.half_close {
        stream.shutdown(Shutdown::Write)?;
    }
    if options.no_read {
        return Ok(false);
    }
    if options.to_end || options.send_late.is_some() {
        stream.read_to_end(read)?;
    } else if !read_line(stream, read)? {
        return Ok(true);
    }
    if let Some(text) = &options.send_late {
        stream.write_all(format!("{text}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
    }
    if options.hold {
        println!("holding");
        stream.read_to_end(read)?;
    }
    Ok(options.to_end || options.send_late.is_some() || options.hold)
}

/// Reads one line; false when the server ended before it was whole.
fn read_line(stream: &mut impl Read, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            return Ok(true);
        }
    }
    Ok(false)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pingpong {
    /// Where to
    to: SocketAddr,
    /// How many round trips
    #[arg(long, default_value_t = 10_000)]
    rounds: usize,
    /// Bytes of each message
    #[arg(long, default_value_t = 64)]
    bytes: usize,
}

pub(crate) fn pingpong(options: &Pingpong) -> Result<()> {
    ensure!(options.rounds > 0, "at least one round trip");
    let (mut stream, _) = socket::connect(options.to, &How::default(), b"")?;
    stream.set_nodelay(true)?;
    let (message, mut answer) = (vec![b'x'; options.bytes], vec![0; options.bytes]);
    let mut times = Vec::with_capacity(options.rounds);
    for _ in 0..options.rounds {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| micros(times[(times.len() - 1) * percent / 100]);
    println!(
        "{}",
        json!({"rounds": times.len(), "p50_us": at(50), "p90_us": at(90), "p99_us": at(99), "max_us": at(100)})
    );
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
