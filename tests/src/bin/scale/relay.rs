//! Stands between the agent and the API server, and counts the bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// What passed, counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Bytes of the API server's, as encrypted.
    pub(crate) down: AtomicU64,
}

/// Carries connections to `server`; its threads end with the process.
pub(crate) fn start(server: SocketAddr) -> Result<(SocketAddr, Arc<Counts>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(upstream) = TcpStream::connect(server) {
                carry(client, upstream, &counted);
            }
        }
    });
    Ok((address, counts))
}

fn carry(client: TcpStream, server: TcpStream, counts: &Arc<Counts>) {
    let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else {
        return;
    };
    let Ok(from_server) = server.try_clone() else {
        return;
    };
    let counts = Arc::clone(counts);
    thread::spawn(move || copy(from_client, server, |_| {}));
    thread::spawn(move || {
        copy(from_server, to_client, |bytes| {
            counts.down.fetch_add(bytes, Ordering::Relaxed);
        });
    });
}

/// Until one of the two ends.
fn copy(mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer)
        && read > 0
        && to.write_all(&buffer[..read]).is_ok()
    {
        count(read as u64);
    }
    // It fails only for a connection that has ended.
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
