//! The server of all measurements: a fixed set of threads, each with one connection at a time,
//! so that no thread is started while the clock runs.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};

/// Where it listens.
pub(crate) const PORT: u16 = 7070;

/// More than any measurement has connections at once.
const THREADS: usize = 48;

/// What a client's first byte asks for: to get everything back.
pub(crate) const ECHO: u8 = b'e';
/// To count what comes, and to be told how much it was, as big-endian u64.
pub(crate) const COUNT: u8 = b'c';

pub(crate) const CHUNK: usize = 128 * 1024;

/// Prints `ready` and serves until it is killed.
pub(crate) fn run() -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .map(Arc::new)
        .context("listening")?;
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || serve(&listener))
        })
        .collect();
    println!("ready");
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the server panicked"))??;
    }
    Ok(())
}

fn serve(listener: &TcpListener) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match listener.accept() {
            // A client that breaks off, as at the end of a measurement, is no harm.
            Ok((stream, _)) => drop(answer(stream, &mut buffer)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("accepting"),
        }
    }
}

fn answer(mut stream: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first[0] == COUNT {
        let mut count = 0_u64;
        loop {
            match stream.read(buffer)? {
                0 => break,
                read => count += read as u64,
            }
        }
        stream.write_all(&count.to_be_bytes())?;
        return stream.shutdown(Shutdown::Write);
    }
    stream.write_all(&first)?;
    loop {
        match stream.read(buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}
