//! What the guard lets pass and what not, and ending what is older.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV6, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mesh_agent::intercept::sockdiag::destroy_plaintext;
use mesh_common::counters::Counter;
use nix::unistd::{pipe, read, write};

use crate::bed::{Bed, OUT_V4, OUT_V6, POD_V4, POD_V6, addr};
use crate::netlink;

/// Polls a counter until it is not 0: packets are dropped without a word.
fn counted(bed: &Bed, counter: Counter) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let count = bed.interceptor().counters().unwrap().get(counter);
        if count > 0 || Instant::now() > deadline {
            return count;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn older_connections_go_on_under_permissive_and_end_under_strict() {
    for (pod, outside) in [(POD_V4, OUT_V4), (POD_V6, OUT_V6)] {
        let mut bed = Bed::new(if pod == POD_V4 { "older4" } else { "older6" });
        let server = bed.outside.run(|| TcpListener::bind("[::]:0").unwrap());
        let to = addr(outside, server.local_addr().unwrap().port());
        let (go, may_go) = pipe().unwrap();
        let app = bed.app(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            for text in [b"1", b"2"] {
                stream.write_all(text).unwrap();
                stream.read_exact(&mut [0]).unwrap();
                read(&go, &mut [0]).unwrap();
            }
            // Under STRICT: this leaves the socket, and no packet the pod.
            stream.write_all(b"secret").unwrap();
            match stream.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => "aborted".into(),
                other => format!("{other:?}"),
            }
        });
        let (mut stream, _) = server.accept().unwrap();
        let mut echo = |text: &[u8]| {
            let mut got = [0];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(got, text);
            stream.write_all(b"e").unwrap();
        };
        echo(b"1");
        bed.enrol(&[POD_V4, POD_V6], false);
        write(&may_go, b"g").unwrap();
        echo(b"2");
        bed.interceptor().set_strict(bed.cookie, true).unwrap();
        write(&may_go, b"g").unwrap();
        assert!(counted(&bed, Counter::EgressStrict) > 0);
        // What comes from outside is not let in either.
        stream.write_all(b"answer").unwrap();
        assert!(counted(&bed, Counter::IngressStrict) > 0);
        let own = [addr(POD_V4, 0).ip(), addr(POD_V6, 0).ip()];
        let cgroup = &bed.cgroup.0;
        let destroyed = bed.pod.run(|| destroy_plaintext(cgroup, &own).unwrap());
        assert_eq!(destroyed.len(), 1, "{destroyed:?}");
        assert_eq!(destroyed[0].remote, to);
        assert_eq!(destroyed[0].cgroup_id, bed.cgroup.id());
        assert_eq!(app.says(), "aborted");
        // The other end learns of it, and has seen nothing of what was sent.
        let end = stream.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn nothing_opens_a_connection_around_the_agent() {
    let mut bed = Bed::new("around");
    bed.enrol(&[POD_V4, POD_V6], false);
    // A link-local address is known only together with an interface, so that the connection
    // is not redirected.
    let to = addr("fe80::2", 9);
    let stray = bed.app(move || {
        let to = SocketAddrV6::new("fe80::2".parse().unwrap(), 9, 0, netlink::index("eth0"));
        let result = TcpStream::connect_timeout(&to.into(), Duration::from_millis(300));
        format!("{:?}", result.unwrap_err().kind())
    });
    assert_eq!(stray.says(), "TimedOut");
    assert!(counted(&bed, Counter::EgressNewConnection) > 0);
    let mut events = bed.interceptor().events().unwrap();
    let event = events.next_event().unwrap();
    assert_eq!(event.kind, Counter::EgressNewConnection);
    assert_eq!(event.remote, to);
    assert_eq!(
        (event.netns, event.cgroup_id),
        (bed.cookie, bed.cgroup.id())
    );
}
