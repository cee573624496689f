//! Notices that a socket has failed while nobody reads or writes it, which is
//! so whenever the other side makes us wait. Both relays run it beside their
//! directions.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Returns the socket's error once it has one (a reset, mostly).
pub(super) async fn broken(socket: &TcpStream) -> io::Error {
    match socket.ready(Interest::ERROR).await {
        Err(error) => error,
        Ok(_) => match socket.take_error() {
            Ok(Some(error)) | Err(error) => error,
            // A read or a write has taken the error and reports it.
            Ok(None) => std::future::pending().await,
        },
    }
}
