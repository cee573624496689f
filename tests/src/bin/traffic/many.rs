//! `traffic idle` and `traffic uploads`: many connections of one process at the same time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use serde_json::json;

use crate::oneway::{self, send};
use crate::socket::{self, How, errno_name};

#[derive(Debug, clap::Args)]
pub(crate) struct Idle {
    /// Where to; an `echo` server
    to: SocketAddr,
    /// How many connections
    #[arg(long)]
    connections: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Uploads {
    /// Where to; a `sink` server
    to: SocketAddr,
    /// How many connections
    #[arg(long)]
    connections: usize,
    /// Bytes of each
    #[arg(long)]
    bytes: u64,
}

/// Opens connections one after another, each with one question and its answer, and keeps those
/// that were answered until SIGUSR1.
pub(crate) fn idle(options: &Idle) -> Result<()> {
    oneway::await_signals()?;
    let mut open = Vec::new();
    let mut errors = BTreeMap::<String, usize>::new();
    for _ in 0..options.connections {
        match answered(options.to) {
            Ok(stream) => open.push(stream),
            Err(error) => *errors.entry(errno_name(&error)).or_default() += 1,
        }
    }
    println!("{}", json!({"open": open.len(), "errors": errors}));
    oneway::told()?;
    Ok(())
}

fn answered(to: SocketAddr) -> io::Result<TcpStream> {
    let (mut stream, _) = socket::connect(to, &How::default(), b"")?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Sends on all connections at once, and counts those that the server got whole.
pub(crate) fn uploads(options: &Uploads) -> Result<()> {
    let upload = || -> io::Result<bool> {
        let (mut stream, _) = socket::connect(options.to, &How::default(), b"")?;
        send(&mut stream, options.bytes)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.connections)
            .map(|_| scope.spawn(upload))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.collect()
    });
    let mut errors = BTreeMap::<String, usize>::new();
    let mut equal = 0;
    for result in results {
        match result.unwrap_or(Ok(false)) {
            Ok(true) => equal += 1,
            Ok(false) => *errors.entry("unequal".to_owned()).or_default() += 1,
            Err(error) => *errors.entry(errno_name(&error)).or_default() += 1,
        }
    }
    println!("{}", json!({"equal": equal, "errors": errors}));
    Ok(())
}
