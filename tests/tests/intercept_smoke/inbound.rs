//! Connections to the pod, and the client that its application is shown.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use mesh_agent::addr::{ClientAddr, canonical};
use mesh_common::counters::Counter;
use nix::sys::socket::SockaddrStorage;

use crate::bed::{Bed, OUT_V4, OUT_V6, POD_V4, POD_V6, addr, socket};

#[test]
fn inbound_reaches_the_agent_on_every_port_of_every_address() {
    let mut bed = Bed::new("inbound");
    bed.enrol(&[POD_V4, POD_V6], false);
    // An application that listens must not get the connection.
    let taken = bed.pod.run(|| TcpListener::bind("[::]:0").unwrap());
    let taken_port = taken.local_addr().unwrap().port();
    for (pod, client, port) in [
        (POD_V4, OUT_V4, 1234),
        (POD_V6, OUT_V6, 1234),
        (POD_V4, OUT_V4, 15008),
        (POD_V4, OUT_V4, taken_port),
        (POD_V6, OUT_V6, taken_port),
    ] {
        let mut stream = bed
            .outside
            .run(|| TcpStream::connect(addr(pod, port)).unwrap());
        stream.write_all(b"hello").unwrap();
        let (mut accepted, peer) = bed.listener().accept().unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(canonical(accepted.local_addr().unwrap()), addr(pod, port));
        assert_eq!(canonical(peer).ip(), addr(client, 0).ip());
        let stolen = bed.interceptor().original_destination(accepted.as_fd());
        assert_eq!(
            stolen, None,
            "an inbound connection has no original destination"
        );
    }
    let counters = bed.interceptor().counters().unwrap();
    assert!(counters.get(Counter::Inbound) >= 5);
}

#[test]
fn the_application_sees_the_client_that_the_agent_names() {
    let mut bed = Bed::new("client");
    bed.enrol(&[POD_V4, POD_V6], true);
    for (own, client) in [(POD_V4, "192.0.2.7:4321"), (POD_V6, "[2001:db8::7]:4321")] {
        let (client, port) = (client.parse().unwrap(), 8080);
        let (ready, is_ready) = nix::unistd::pipe().unwrap();
        let app = bed.app(move || {
            let server = TcpListener::bind("[::]:8080").unwrap();
            nix::unistd::write(&is_ready, b"r").unwrap();
            let (mut stream, peer) = server.accept().unwrap();
            let asked = stream.peer_addr().unwrap();
            assert_eq!(peer, asked, "accept and getpeername agree");
            stream.read_exact(&mut [0]).unwrap();
            canonical(peer).to_string()
        });
        nix::unistd::read(&ready, &mut [0]).unwrap();
        let interceptor = bed.interceptor();
        let local = bed.pod.run(|| {
            let family = if own == POD_V4 {
                libc::AF_INET
            } else {
                libc::AF_INET6
            };
            let fd = socket(family, libc::SOCK_STREAM, 0);
            interceptor
                .publish_client(fd.as_fd(), ClientAddr(client))
                .unwrap();
            let to = SockaddrStorage::from(addr(own, port));
            nix::sys::socket::connect(fd.as_raw_fd(), &to).unwrap();
            assert!(interceptor.is_client_published(fd.as_fd()));
            let mut stream = TcpStream::from(fd);
            let local = stream.local_addr().unwrap();
            stream.write_all(b"x").unwrap();
            assert_eq!(app.says(), client.to_string());
            local
        });
        assert_eq!(
            local.ip(),
            addr(own, 0).ip(),
            "the agent dials from the pod's own address"
        );
    }
}
