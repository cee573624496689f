//! `traffic flood`: many connections from many threads, each checked for where it arrived.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
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
    /// Go on until SIGTERM instead, and tell of the progress: `right N` and `failed N`, now and then
    #[arg(long, conflicts_with_all = ["connections", "seconds"])]
    until_told: bool,
    /// Milliseconds that a thread waits between its connections
    #[arg(long, default_value_t = 0)]
    pause: u64,
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
    let total = if deadline.is_some() || options.until_told {
        usize::MAX
    } else {
        options.connections
    };
    if options.until_told {
        stop_when_told()?;
    }
    let progress = Progress::default();
    let work = || {
        let mut tally = Tally::default();
        while deadline.is_none_or(|deadline| Instant::now() < deadline)
            && !TOLD_TO_STOP.load(Ordering::Relaxed)
        {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                break;
            }
            let right = tally.add(&options.targets[n % options.targets.len()]);
            if options.until_told {
                progress.tell(right);
            }
            std::thread::sleep(Duration::from_millis(options.pause));
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

static TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Before any thread is there, so that none takes the signal.
fn stop_when_told() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            TOLD_TO_STOP.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// What is told while the flood runs.
#[derive(Default)]
struct Progress {
    right: AtomicUsize,
    failed: AtomicUsize,
}

impl Progress {
    /// Connections from one line of each kind to the next.
    const STEP: usize = 20;
    /// What a client waits before it tries again what failed.
    const AGAIN: Duration = Duration::from_millis(5);

    fn tell(&self, right: bool) {
        let (count, word) = if right {
            (&self.right, "right")
        } else {
            std::thread::sleep(Self::AGAIN);
            (&self.failed, "failed")
        };
        let now = count.fetch_add(1, Ordering::Relaxed) + 1;
        if now.is_multiple_of(Self::STEP) {
            println!("{word} {now}");
        }
    }
}

impl Tally {
    /// Says whether the right server answered.
    fn add(&mut self, target: &Target) -> bool {
        let answer = who_answers(target.address);
        let right = answer.as_ref().is_ok_and(|name| *name == target.name);
        match answer {
            Ok(_) if right => self.right += 1,
            Ok(name) => {
                *self
                    .wrong
                    .entry(format!("{name:?} instead of {}", target.name))
                    .or_default() += 1
            }
            Err(error) => *self.errors.entry(errno_name(&error)).or_default() += 1,
        }
        right
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
