//! `traffic talk`: one connection that stays open, and asks when it is told to.
//!
//! SIGUSR1 sends a line to an `echo` server; `answered N` tells that it came back. SIGTERM ends
//! the own direction. `ended` or `error NAME` tells, at once, how the server's direction ended.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::socket::{self, How, errno_name};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to
    to: SocketAddr,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // Before any thread is there, so that none takes the signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let (stream, _) = socket::connect(options.to, &How::default(), b"").context("connecting")?;
    println!("from {}", socket::local_name(&stream).unwrap_or_default());
    let reader = stream.try_clone()?;
    let reading = std::thread::spawn(move || match listen(reader) {
        Ok(()) => println!("ended"),
        Err(error) => println!("error {}", errno_name(&error)),
    });
    let mut asked = 0;
    while signals.wait()? == Signal::SIGUSR1 {
        asked += 1;
        // The reader tells of a connection that broke.
        let _ = (&stream).write_all(format!("{asked}\n").as_bytes());
    }
    let _ = stream.shutdown(Shutdown::Write);
    reading
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))
}

fn listen(stream: TcpStream) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        println!("answered {}", line?);
    }
    Ok(())
}
