//! `traffic abandon`: connects that nobody waits for, each reset at once.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use anyhow::Result;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket,
    sockopt,
};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to, one after another
    #[arg(required = true)]
    to: Vec<SocketAddr>,
    /// How many connections in all
    #[arg(long)]
    connections: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let reset = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let mut begun = 0;
    for to in options.to.iter().cycle().take(options.connections) {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
        setsockopt(&fd, sockopt::Linger, &reset)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(*to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => begun += 1,
            Err(Errno::EADDRNOTAVAIL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    println!("{}", json!({"begun": begun}));
    Ok(())
}
