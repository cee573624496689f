//! `traffic flood`: many connections from many threads, each checked for where it arrived.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::socket::{self, How, errno_name};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to, and which `banner` must answer there: ADDRESS=NAME, several with commas
    #[arg(long, required = true, value_delimiter = ',', value_parser = target)]
    targets: Vec<Target>,
    /// How many threads
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// How many connections in all
    #[arg(long, default_value_t = 1000, conflicts_with = "seconds")]
    connections: usize,
    /// Go on for this long instead
    #[arg(long)]
    seconds: Option<u64>,
}

#[derive(Debug, Clone)]
struct Target {
    address: SocketAddr,
    name: String,
}

fn target(text: &str) -> Result<Target> {
    let (address, name) = text.split_once('=').context("a target is ADDRESS=NAME")?;
    Ok(Target {
        address: address.parse()?,
        name: name.to_owned(),
    })
}

#[derive(Debug, Default)]
struct Tally {
    right: usize,
    /// "who answered instead of whom"
    wrong: BTreeMap<String, usize>,
    errors: BTreeMap<String, usize>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let deadline = options.seconds.map(|s| start + Duration::from_secs(s));
    let total = if deadline.is_some() {
        usize::MAX
    } else {
        options.connections
    };
    let work = || {
        let mut tally = Tally::default();
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                break;
            }
            tally.add(&options.targets[n % options.targets.len()]);
        }
        tally
    };
    let tally = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().fold(Tally::default(), |sum, thread| {
            sum.merge(thread.join().unwrap_or_default())
        })
    });
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"right": tally.right, "wrong": tally.wrong, "errors": tally.errors, "seconds": seconds,
               "per_second": f64::from(u32::try_from(tally.right)?) / seconds})
    );
    Ok(())
}

impl Tally {
    fn add(&mut self, target: &Target) {
        match who_answers(target.address) {
            Ok(name) if name == target.name => self.right += 1,
            Ok(name) => {
                *self
                    .wrong
                    .entry(format!("{name:?} instead of {}", target.name))
                    .or_default() += 1
            }
            Err(error) => *self.errors.entry(errno_name(&error)).or_default() += 1,
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.right += other.right;
        for (mine, theirs) in [
            (&mut self.wrong, other.wrong),
            (&mut self.errors, other.errors),
        ] {
            for (key, count) in theirs {
                *mine.entry(key).or_default() += count;
            }
        }
        self
    }
}

/// The first word that a `banner` server sends.
fn who_answers(address: SocketAddr) -> io::Result<String> {
    let (mut stream, _) = socket::connect(address, &How::default(), b"")?;
    let mut buffer = [0; 256];
    let mut length = 0;
    while !buffer[..length].contains(&b'\n') {
        match stream.read(&mut buffer[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    let line = String::from_utf8_lossy(&buffer[..length]);
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}
