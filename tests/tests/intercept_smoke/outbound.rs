//! Connections of the pod: every kind of socket, and what is left alone.

use std::io::{Error, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use mesh_common::counters::Counter;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use crate::bed::{Bed, OUT_V4, OUT_V6, POD_V4, POD_V6, addr, app, socket};

/// Makes a socket, lets `prepare` work on it, connects it to `to`, sends a
/// byte, and says "own peer" as the socket has them.
fn connect(
    protocol: i32,
    to: SocketAddr,
    family: i32,
    prepare: impl FnOnce(&OwnedFd),
    open: impl FnOnce(&OwnedFd, &SockaddrStorage) -> Result<(), Error>,
) -> String {
    let fd = socket(family, libc::SOCK_STREAM, protocol);
    prepare(&fd);
    let target = match (to, family) {
        (SocketAddr::V4(v4), libc::AF_INET6) => {
            let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
            SockaddrStorage::from(mapped)
        }
        _ => SockaddrStorage::from(to),
    };
    if let Err(error) = open(&fd, &target) {
        return format!("error {}", error.raw_os_error().unwrap_or(0));
    }
    let peer: SockaddrStorage = getpeername(fd.as_raw_fd()).unwrap();
    let own: SockaddrStorage = getsockname(fd.as_raw_fd()).unwrap();
    let text = format!("{} {peer}", own.to_string().rsplit_once(':').unwrap().0);
    // SAFETY: the descriptor is handed over.
    let mut stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
    stream.write_all(b"x").unwrap();
    // The test reads until the end, so that the socket lives till then.
    text
}

fn plain(fd: &OwnedFd, to: &SockaddrStorage) -> Result<(), Error> {
    Ok(nix::sys::socket::connect(fd.as_raw_fd(), to)?)
}

fn non_blocking(fd: &OwnedFd, to: &SockaddrStorage) -> Result<(), Error> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    match nix::sys::socket::connect(fd.as_raw_fd(), to) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    wait_writable(fd);
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    Ok(())
}

fn wait_writable(fd: &OwnedFd) {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, as said.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
}

fn fast_open(fd: &OwnedFd, to: &SockaddrStorage) -> Result<(), Error> {
    use nix::sys::socket::SockaddrLike;
    // SAFETY: address and length belong together, and the byte is one byte.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            b"f".as_ptr().cast(),
            1,
            libc::MSG_FASTOPEN,
            to.as_ptr(),
            to.len(),
        )
    };
    if sent < 0 {
        return Err(Error::last_os_error());
    }
    wait_writable(fd);
    Ok(())
}

pub(crate) fn set(fd: &impl AsRawFd, level: i32, option: i32, value: &[u8]) {
    // SAFETY: the value is as long as said.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    assert_eq!(result, 0, "setsockopt: {}", Error::last_os_error());
}

/// Accepts a connection on the agent's listener and checks what is known of it.
fn expect(bed: &Bed, wanted: SocketAddr) -> TcpStream {
    let (stream, _) = bed.listener().accept().unwrap();
    let found = bed.interceptor().original_destination(stream.as_fd());
    let (destination, cgroup) = found.expect("a redirected connection has its destination");
    assert_eq!(destination.0, wanted);
    assert_eq!(cgroup, bed.cgroup.id());
    stream
}

#[test]
fn every_kind_of_socket_is_redirected() {
    let mut bed = Bed::new("outbound");
    bed.enrol(&[POD_V4, POD_V6], false);
    const TCP: i32 = libc::IPPROTO_TCP;
    const MPTCP: i32 = 262;
    const V4: i32 = libc::AF_INET;
    const V6: i32 = libc::AF_INET6;
    let (v4, v6) = (addr(OUT_V4, 9), addr(OUT_V6, 9));
    let nothing = |_: &OwnedFd| {};
    let bind_v4 = |fd: &OwnedFd| {
        let own = SockaddrStorage::from(addr(POD_V4, 0));
        nix::sys::socket::bind(fd.as_raw_fd(), &own).unwrap();
    };
    let to_device = |fd: &OwnedFd| set(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0\0");
    let fast_open_connect = |fd: &OwnedFd| set(fd, libc::SOL_TCP, 30, &1i32.to_ne_bytes());
    type Open = fn(&OwnedFd, &SockaddrStorage) -> Result<(), Error>;
    type Case<'a> = (&'a str, i32, i32, SocketAddr, &'a dyn Fn(&OwnedFd), Open);
    let cases: [Case<'_>; 14] = [
        ("IPv4", TCP, V4, v4, &nothing, plain),
        ("IPv6", TCP, V6, v6, &nothing, plain),
        ("v4-mapped", TCP, V6, v4, &nothing, plain),
        ("non-blocking IPv4", TCP, V4, v4, &nothing, non_blocking),
        ("non-blocking IPv6", TCP, V6, v6, &nothing, non_blocking),
        ("bound", TCP, V4, v4, &bind_v4, plain),
        ("bound to device", TCP, V4, v4, &to_device, plain),
        ("bound to device, IPv6", TCP, V6, v6, &to_device, plain),
        ("fast open by sendto", TCP, V4, v4, &nothing, fast_open),
        (
            "fast open by sendto, IPv6",
            TCP,
            V6,
            v6,
            &nothing,
            fast_open,
        ),
        (
            "fast open by connect",
            TCP,
            V4,
            v4,
            &fast_open_connect,
            plain,
        ),
        ("MPTCP IPv4", MPTCP, V4, v4, &nothing, plain),
        ("MPTCP IPv6", MPTCP, V6, v6, &nothing, plain),
        ("MPTCP v4-mapped", MPTCP, V6, v4, &nothing, plain),
    ];
    for (name, protocol, family, to, prepare, open) in cases {
        println!("{name}");
        let app = bed.app(|| connect(protocol, to, family, prepare, open));
        drop(expect(&bed, to));
        println!("{name}: {}", app.says());
    }
    let counters = bed.interceptor().counters().unwrap();
    assert_eq!(counters.get(Counter::Redirected), 14);
}

#[test]
fn what_stays_in_the_pod_is_left_alone() {
    let mut bed = Bed::new("local");
    bed.enrol(&[POD_V4, POD_V6], true);
    let app = bed.app(|| {
        let server = TcpListener::bind("[::]:0").unwrap();
        let port = server.local_addr().unwrap().port();
        for ip in [
            "127.0.0.1",
            "127.3.2.1",
            "::1",
            POD_V4,
            POD_V6,
            "0.0.0.0",
            "::",
        ] {
            let to = addr(ip, port);
            let client = TcpStream::connect(to).unwrap();
            let (accepted, peer) = server.accept().unwrap();
            let peer = mesh_agent::addr::canonical(peer);
            assert_eq!(peer, client.local_addr().unwrap(), "{ip}");
            drop(accepted);
            // The wildcard is the one address that connect() itself changes.
            if !to.ip().is_unspecified() {
                assert_eq!(client.peer_addr().unwrap(), to);
            }
        }
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        udp.connect(addr(OUT_V4, 9)).unwrap();
        udp.send(b"x").unwrap();
        udp.peer_addr().unwrap().to_string()
    });
    assert_eq!(app.says(), "10.77.0.2:9");
    let counters = bed.interceptor().counters().unwrap();
    assert!(counters.iter().all(|(_, count)| count == 0), "{counters:?}");
}

#[test]
fn a_pod_that_is_not_enrolled_is_left_alone() {
    let mut bed = Bed::new("released");
    let server = bed.outside.run(|| TcpListener::bind("[::]:0").unwrap());
    let port = server.local_addr().unwrap().port();
    let talk = || {
        let app = bed.app(|| {
            let mut stream = TcpStream::connect(addr(OUT_V4, port)).unwrap();
            stream.write_all(b"x").unwrap();
            "sent".to_owned()
        });
        let (_, peer) = server.accept().unwrap();
        assert_eq!(mesh_agent::addr::canonical(peer).ip(), addr(POD_V4, 0).ip());
        assert_eq!(app.says(), "sent");
    };
    talk();
    bed.enrol(&[POD_V4, POD_V6], true);
    let app = bed.app(|| connect(0, addr(OUT_V4, port), libc::AF_INET, |_| {}, plain));
    drop(expect(&bed, addr(OUT_V4, port)));
    drop(app.says());
    bed.interceptor().release(bed.cookie).unwrap();
    // Once more: nothing is an error that is gone already.
    bed.interceptor().release(bed.cookie).unwrap();
    assert_eq!(bed.interceptor().kernel_pods().unwrap(), []);
    let talk = || {
        let app = bed.app(|| {
            let mut stream = TcpStream::connect(addr(OUT_V6, port)).unwrap();
            stream.write_all(b"x").unwrap();
            "sent".to_owned()
        });
        server.accept().unwrap();
        assert_eq!(app.says(), "sent");
    };
    talk();
}

#[test]
fn borrowed_namespaces_and_missing_families_are_refused() {
    let mut bed = Bed::new("refused");
    bed.enrol(&[POD_V4], false);
    let v4 = || connect(0, addr(OUT_V4, 9), libc::AF_INET, |_| {}, plain);
    let foreign = app(&bed.other_cgroup.0, &bed.pod, v4).says();
    assert_eq!(foreign, format!("error {}", libc::EPERM));
    let v6 = || connect(0, addr(OUT_V6, 9), libc::AF_INET6, |_| {}, plain);
    let no_address = bed.app(v6).says();
    assert_eq!(no_address, format!("error {}", libc::ENETUNREACH));
    let counters = bed.interceptor().counters().unwrap();
    assert_eq!(counters.get(Counter::RefusedForeignCgroup), 1);
    assert_eq!(counters.get(Counter::RefusedNoAddress), 1);
    let mut events = bed.interceptor().events().unwrap();
    let first = events.next_event().unwrap();
    assert_eq!(first.kind, Counter::RefusedForeignCgroup);
    assert_eq!(
        (first.netns, first.cgroup_id),
        (bed.cookie, bed.cgroup.id())
    );
    assert_eq!((first.local, first.remote), (None, addr(OUT_V4, 9)));
    let second = events.next_event().unwrap();
    assert_eq!(second.kind, Counter::RefusedNoAddress);
    assert_eq!(second.remote, addr(OUT_V6, 9));
    assert_eq!(events.next_event(), None);
    assert!(bed.interceptor().events().is_none());
}

#[test]
fn a_socket_that_was_redirected_once_forgets_it() {
    let mut bed = Bed::new("again");
    bed.enrol(&[POD_V4, POD_V6], false);
    let app = bed.app(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = SockaddrStorage::from(server.local_addr().unwrap());
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        plain(&fd, &SockaddrStorage::from(addr(OUT_V4, 9))).unwrap();
        // connect() to AF_UNSPEC ends the connection and keeps the socket.
        let nowhere = [0u8; 16];
        // SAFETY: an address of family 0, as long as said.
        let result = unsafe { libc::connect(fd.as_raw_fd(), nowhere.as_ptr().cast(), 16) };
        assert_eq!(result, 0);
        plain(&fd, &local).unwrap();
        let peer: SockaddrStorage = getpeername(fd.as_raw_fd()).unwrap();
        assert_eq!(peer, local);
        "the local peer".to_owned()
    });
    drop(expect(&bed, addr(OUT_V4, 9)));
    assert_eq!(app.says(), "the local peer");
}
