//! Facts handed over from the socket that opens a connection to the one that accepts it: each
//! connection has its own, whatever happens to others, and nothing is left behind.

use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mesh_agent::addr::ClientAddr;
use mesh_common::counters::Counter;
use mesh_common::maps::CLIENTS_PER_POD;
use nix::sys::socket::{Backlog, SockaddrStorage, bind, connect, listen};

use crate::bed::{Bed, OUT_V4, POD_V4, addr, socket};
use crate::outbound::set;

/// Source port of the connections that replace each other.
const REUSED: u16 = 42_424;

fn socket_from(source: SocketAddr) -> OwnedFd {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    set(
        &fd,
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        &1i32.to_ne_bytes(),
    );
    bind(fd.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    fd
}

/// Entries of a map of connections under way.
fn entries(bed: &Bed, map: &str) -> usize {
    let filled = bed.interceptor().handshakes().unwrap();
    let of_map = filled.iter().find(|fill| fill.map == map);
    of_map.unwrap().entries
}

#[test]
fn original_destination_stays_with_its_connection_when_the_port_is_reused() {
    let mut bed = Bed::new("reused");
    bed.enrol(&[POD_V4], false);
    // Nothing accepts meanwhile, as while the agent is busy.
    let app = bed.app(|| {
        for (port, text) in [(9, b"first "), (10, b"second")] {
            let fd = socket_from(addr(POD_V4, REUSED));
            let to = SockaddrStorage::from(addr(OUT_V4, port));
            connect(fd.as_raw_fd(), &to).unwrap();
            let mut stream = TcpStream::from(fd);
            stream.write_all(text).unwrap();
            if port == 9 {
                // Closing resets: the port is free at once.
                let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
                set(&stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
            } else {
                std::mem::forget(stream);
            }
        }
        "both".to_owned()
    });
    assert_eq!(app.says(), "both");
    for (port, text) in [(9, "first "), (10, "second")] {
        let (mut accepted, peer) = bed.listener().accept().unwrap();
        assert_eq!(peer.port(), REUSED);
        let found = bed.interceptor().original_destination(accepted.as_fd());
        let (found, cgroup) = found.expect("a redirected connection has its destination");
        assert_eq!(found.0, addr(OUT_V4, port));
        assert_eq!(cgroup, bed.cgroup.id());
        let mut read = [0; 6];
        // The kernel may throw away what a reset connection had received.
        match accepted.read_exact(&mut read) {
            Ok(()) => assert_eq!(read, text.as_bytes()),
            Err(error) => assert!(port == 9, "{error}"),
        }
    }
    assert_eq!(entries(&bed, "original_destinations"), 0);
}

#[test]
fn unanswered_connects_leave_no_original_destination() {
    let mut bed = Bed::new("unanswered");
    bed.enrol(&[POD_V4], false);
    // A queue of one, which these connections fill and overflow.
    listen(bed.listener(), Backlog::new(1).unwrap()).unwrap();
    let app = bed.app(|| {
        let mut open = Vec::new();
        for port in 0..600 {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            let to = SockaddrStorage::from(addr(OUT_V4, 1000 + port));
            let _in_progress = connect(fd.as_raw_fd(), &to);
            open.push(fd);
        }
        "tried".to_owned()
    });
    assert_eq!(app.says(), "tried");
    let counters = bed.interceptor().counters().unwrap();
    assert_eq!(counters.get(Counter::Redirected), 600);
    // The process has ended, and its sockets with it.
    assert_eq!(entries(&bed, "original_destinations"), 0);
}

#[test]
fn client_over_the_budget_is_not_published_and_closing_gives_the_places_back() {
    let mut bed = Bed::new("budget");
    bed.enrol(&[POD_V4], true);
    let interceptor = bed.interceptor();
    let client = ClientAddr("192.0.2.7:4321".parse().unwrap());
    let (ready, is_ready) = nix::unistd::pipe().unwrap();
    let (end, until_end) = {
        let (read, write) = nix::unistd::pipe().unwrap();
        (write, read)
    };
    let app = bed.app(move || {
        // Takes a connection at its first byte of data: until then its handshake goes on.
        let server = TcpListener::bind("0.0.0.0:8080").unwrap();
        set(
            &server,
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            &60i32.to_ne_bytes(),
        );
        listen(&server, Backlog::new(4000).unwrap()).unwrap();
        nix::unistd::write(&is_ready, b"r").unwrap();
        nix::unistd::read(&until_end, &mut [0]).unwrap();
        loop {
            let (mut stream, peer) = server.accept().unwrap();
            // Those that were closed without a byte come first.
            if stream.read(&mut [0]).unwrap() == 1 {
                return peer.to_string();
            }
        }
    });
    nix::unistd::read(&ready, &mut [0]).unwrap();
    bed.pod.run(|| {
        let dial = || -> Result<OwnedFd, Error> {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            interceptor.publish_client(fd.as_fd(), client)?;
            connect(fd.as_raw_fd(), &SockaddrStorage::from(addr(POD_V4, 8080)))?;
            Ok(fd)
        };
        let held: Vec<_> = (0..CLIENTS_PER_POD).map(|_| dial().unwrap()).collect();
        let all = held
            .iter()
            .all(|fd| interceptor.is_client_published(fd.as_fd()));
        assert!(all, "within the budget");
        assert_eq!(entries(&bed, "clients"), CLIENTS_PER_POD);
        let over = dial().unwrap();
        assert!(!interceptor.is_client_published(over.as_fd()));
        let counters = interceptor.counters().unwrap();
        assert_eq!(counters.get(Counter::UnpublishedClient), 1);
        drop((held, over));
        assert_eq!(entries(&bed, "clients"), 0);
        let again = dial().unwrap();
        assert!(interceptor.is_client_published(again.as_fd()));
        let mut again = TcpStream::from(again);
        again.write_all(b"x").unwrap();
        nix::unistd::write(&end, b"e").unwrap();
        assert_eq!(app.says(), client.0.to_string());
        assert_eq!(entries(&bed, "clients"), 0);
    });
}
