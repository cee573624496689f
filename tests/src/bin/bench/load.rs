//! The client of one measurement: prints one JSON object.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::server::{CHUNK, COUNT, ECHO};

/// Bytes of a message whose way there and back is timed.
const MESSAGE: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum)]
    kind: Kind,
    /// The server
    to: SocketAddr,
    /// How many at once
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// For how long
    #[arg(long)]
    millis: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Bytes a second, over a connection for each thread
    Throughput,
    /// Round trips of a small message on one connection
    Latency,
    /// Connections a second: connect, one byte there and back, close
    Connections,
}

/// What a client measured. Fields that its kind has no word on are zero.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Bytes that the server counted, or connections, a second.
    pub(crate) per_second: f64,
    /// Median round trip in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the round trips in microseconds.
    pub(crate) p99_us: f64,
    /// Connections that failed.
    pub(crate) errors: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let time = Duration::from_millis(options.millis);
    let measured = match options.kind {
        Kind::Throughput => throughput(options.to, options.threads, time)?,
        Kind::Latency => latency(options.to, time)?,
        Kind::Connections => connections(options.to, options.threads, time)?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Connections are made before the clock starts; it stops when the server has counted all.
fn throughput(to: SocketAddr, threads: usize, time: Duration) -> Result<Measured> {
    let streams: Vec<_> = (0..threads)
        .map(|_| open(to, COUNT))
        .collect::<io::Result<_>>()
        .context("connecting")?;
    let start = Instant::now();
    let bytes = in_threads(streams, |stream| send_until(stream, start + time))?;
    Ok(Measured {
        per_second: sum(bytes) / start.elapsed().as_secs_f64(),
        ..Measured::default()
    })
}

fn send_until(mut stream: TcpStream, deadline: Instant) -> io::Result<u64> {
    let chunk = vec![b'x'; CHUNK];
    while Instant::now() < deadline {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn latency(to: SocketAddr, time: Duration) -> Result<Measured> {
    let mut stream = open(to, ECHO).context("connecting")?;
    stream.read_exact(&mut [0])?;
    let (message, mut answer) = ([b'x'; MESSAGE], [0; MESSAGE]);
    let mut trips = Vec::new();
    let deadline = Instant::now() + time;
    loop {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        let end = Instant::now();
        trips.push(end - start);
        if end >= deadline {
            break;
        }
    }
    trips.sort_unstable();
    let at = |percent: usize| trips[(trips.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Ok(Measured {
        p50_us: at(50),
        p99_us: at(99),
        ..Measured::default()
    })
}

fn connections(to: SocketAddr, threads: usize, time: Duration) -> Result<Measured> {
    let start = Instant::now();
    let deadline = start + time;
    let tallies = in_threads(vec![(); threads], |()| {
        let (mut good, mut bad) = (0_u64, 0_u64);
        while Instant::now() < deadline {
            match one_connection(to) {
                Ok(()) => good += 1,
                Err(_) => bad += 1,
            }
        }
        Ok((good, bad))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let (good, bad): (Vec<_>, Vec<_>) = tallies.into_iter().unzip();
    Ok(Measured {
        per_second: sum(good) / seconds,
        errors: bad.iter().sum(),
        ..Measured::default()
    })
}

fn one_connection(to: SocketAddr) -> io::Result<()> {
    let mut stream = open(to, ECHO)?;
    stream.read_exact(&mut [0])
}

/// Connects, and says what is wanted.
fn open(to: SocketAddr, wanted: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wanted])?;
    Ok(stream)
}

fn in_threads<T: Send, R: Send>(
    inputs: Vec<T>,
    work: impl Fn(T) -> io::Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = inputs
            .into_iter()
            .map(|input| scope.spawn(move || work(input)))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result.context("on the way"),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn sum(counts: Vec<u64>) -> f64 {
    counts.into_iter().sum::<u64>() as f64
}
