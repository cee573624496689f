//! `traffic upload` and `traffic download`: many bytes one way, and ends that stall until told.
//!
//! Whoever stalls does not read until SIGUSR1 comes; SIGUSR2 makes it reset instead.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::bulk::{hex, send_pattern};
use crate::socket::{self, How, errno_name};

#[derive(Debug, clap::Args)]
pub(crate) struct Upload {
    /// Where to; a `sink` server
    to: SocketAddr,
    /// How many bytes
    #[arg(long)]
    bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Download {
    /// Where from; a `source` server
    from: SocketAddr,
    /// How many bytes it sends
    #[arg(long)]
    bytes: u64,
    /// Print `stalled`, and read only when told
    #[arg(long)]
    stall: bool,
}

/// What a stalled end is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Read,
    Reset,
}

/// To be called before any thread is there, so that none is killed by the signals.
pub(crate) fn await_signals() -> Result<()> {
    Ok(signals().thread_block()?)
}

/// Waits to be told.
pub(crate) fn told() -> io::Result<Told> {
    Ok(match signals().wait()? {
        Signal::SIGUSR1 => Told::Read,
        _ => Told::Reset,
    })
}

/// Reads to the end; gives the number of bytes and their SHA-256.
pub(crate) fn drain(stream: &mut impl Read) -> io::Result<(u64, String)> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 128 * 1024];
    let mut count = 0;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok((count, hex(hash.finish().as_ref())));
        }
        hash.update(&buffer[..read]);
        count += read as u64;
    }
}

/// Sends, and compares with what the server says to have received. Resets when told.
pub(crate) fn upload(options: &Upload) -> Result<()> {
    await_signals()?;
    let (mut stream, _) =
        socket::connect(options.to, &How::default(), b"").context("connecting")?;
    let told_stream = stream.try_clone()?;
    std::thread::spawn(move || {
        // The process ends with the connection: its other descriptor must not keep it open.
        if told().is_ok() && socket::reset_on_close(&told_stream).is_ok() {
            std::process::exit(0);
        }
    });
    tell(send(&mut stream, options.bytes));
    Ok(())
}

pub(crate) fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<bool> {
    let sent = send_pattern(stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer == format!("{bytes} {}\n", hex(sent.as_ref())))
}

/// Receives, and compares with what the server must have sent.
pub(crate) fn download(options: &Download) -> Result<()> {
    await_signals()?;
    let (mut stream, _) =
        socket::connect(options.from, &How::default(), b"").context("connecting")?;
    if options.stall {
        println!("stalled");
        if told()? == Told::Reset {
            return Ok(socket::reset_on_close(&stream)?);
        }
    }
    let expected = send_pattern(&mut io::sink(), options.bytes)?;
    let received = drain(&mut stream);
    tell(received.map(|came| came == (options.bytes, hex(expected.as_ref()))));
    Ok(())
}

fn tell(result: io::Result<bool>) {
    let errno = result.as_ref().err().map(errno_name);
    println!("{}", json!({"equal": result.ok(), "errno": errno}));
}

fn signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.add(Signal::SIGUSR2);
    signals
}
