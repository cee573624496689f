//! `traffic abandon`: connections that are reset at once, each from a source port of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::Result;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt,
    socket, sockopt,
};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to: first all source ports to the first one
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
    // Every source port for one destination, and then for the next: as many connections as
    // can differ.
    let ports = 1024..=u16::MAX;
    let each = options
        .to
        .iter()
        .flat_map(|to| ports.clone().map(move |port| (to, port)));
    for (to, port) in each.take(options.connections) {
        let (family, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
        setsockopt(&fd, sockopt::Linger, &reset)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let from = SocketAddr::new(any, port);
        match bind(fd.as_raw_fd(), &SockaddrStorage::from(from)) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => continue, // the agent's listener has it
            Err(errno) => return Err(errno.into()),
        }
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(*to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => begun += 1,
            Err(errno) => return Err(errno.into()),
        }
    }
    println!("{}", json!({"begun": begun}));
    Ok(())
}
