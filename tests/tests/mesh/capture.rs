//! Capture on the way out: every way in which a program can open a TCP connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Mtls;

use crate::pair::{Pair, counted, ensure_only_tunnels};

/// Each kind of socket, in both families, is redirected, tunnelled and led to the server it
/// asked for, and sees its own address and the one it asked for.
#[test]
fn core_every_kind_of_connect_is_captured() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let (client, server) = (&pair.client, &pair.server);
    let _blue = server.serve("serve banner blue")?;
    let capture = pair.mesh.capture()?;
    let before = counted(&pair.a, "redirected")?;
    let mut opened = 0;
    for (to, own) in [
        (server.v4(8080), client.v4(0)),
        (server.v6(8080), client.v6(0)),
    ] {
        // A port of its own for each, which the last one would still hold.
        let bound = |port| SocketAddr::new(own.ip(), port);
        for flags in [
            String::new(),
            "--nonblocking".to_owned(),
            format!("--bind {own}"),
            format!("--bind {}", bound(45_001)),
            format!("--bind {} --nonblocking", bound(45_002)),
            "--device eth0".to_owned(),
            format!("--device eth0 --bind {}", bound(45_003)),
            "--fastopen --send hello".to_owned(),
            "--fastopen --nonblocking --send hello".to_owned(),
            "--fastopen-connect --send hello".to_owned(),
        ] {
            let seen = client.client(&format!("connect {to} {flags}"))?;
            opened += 1;
            let log = || format!("{to} {flags}: {seen}\n{}", pair.a.log_tail());
            let read = seen["read"].as_str().with_context(log)?;
            ensure!(read.starts_with("blue accept="), "{}", log());
            ensure!(seen["getpeername"] == to.to_string(), "{}", log());
            let name: SocketAddr = seen["getsockname"].as_str().with_context(log)?.parse()?;
            ensure!(name.ip() == own.ip(), "{}", log());
            if flags.contains(":450") {
                ensure!(flags.contains(&format!("--bind {name}")), "{}", log());
            }
        }
    }
    ensure!(
        counted(&pair.a, "redirected")? == before + opened,
        "not each of the {opened} connections was redirected once"
    );
    let recording = capture.stop()?;
    ensure_only_tunnels(&recording, server)?;
    ensure!(
        !recording.contains(b"blue accept="),
        "an answer in the clear"
    );
    Ok(())
}

/// IPv4 reached from an IPv6 socket, and the names that such a socket sees.
#[test]
fn core_v4_mapped_sockets_are_captured() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let to = pair.server.v4(8080);
    let _blue = pair.server.serve("serve banner blue")?;
    let capture = pair.mesh.capture()?;
    for flags in [
        String::new(),
        "--nonblocking".to_owned(),
        format!("--bind {}", pair.client.v4(45_679)),
        "--device eth0".to_owned(),
        "--fastopen --send hello".to_owned(),
    ] {
        let seen = pair
            .client
            .client(&format!("connect {to} --v4mapped {flags}"))?;
        let read = seen["read"].as_str().unwrap_or_default();
        ensure!(read.starts_with("blue accept="), "{flags}: {seen}");
        ensure!(
            seen["getpeername"] == format!("[::ffff:{}]:8080", to.ip()),
            "{flags}: {seen}"
        );
        let name = seen["getsockname"].as_str().unwrap_or_default();
        let own = format!("[::ffff:{}]:", pair.client.v4(0).ip());
        ensure!(name.starts_with(&own), "{flags}: {seen}");
    }
    ensure!(capture.stop()?.beside(15008).is_empty(), "plaintext");
    Ok(())
}

/// Multipath TCP on either side, both families: captured like TCP, with no subflow beside the
/// tunnel. (The kernel does not ask its hooks for the name of such a socket's peer.)
#[test]
fn core_multipath_tcp_sockets_are_captured() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let (client, server) = (&pair.client, &pair.server);
    let _plain = server.serve("serve banner plain --listen [::]:8080")?;
    let _multi = server.serve("serve banner multi --listen [::]:8081 --mptcp")?;
    // With a second address to announce, an uncaptured connection would grow a subflow.
    let extra = pair.mesh.outsider("spare")?.v4(0).ip();
    client
        .netns()
        .ip(&format!("addr add {extra}/16 dev eth0"))?;
    for words in [
        "mptcp limits set subflow 4 add_addr_accepted 4".to_owned(),
        format!("mptcp endpoint add {extra} dev eth0 subflow fullmesh"),
    ] {
        client.netns().ip(&words)?;
    }
    let capture = pair.mesh.capture()?;
    for (port, name) in [(8080, "plain "), (8081, "multi ")] {
        for (to, flags) in [
            (server.v4(port), "--mptcp"),
            (server.v6(port), "--mptcp"),
            (server.v4(port), "--mptcp --v4mapped"),
            (server.v4(port), "--mptcp --nonblocking"),
            (server.v4(port), ""),
            (server.v6(port), ""),
        ] {
            let seen = client.client(&format!("connect {to} {flags}"))?;
            let read = seen["read"].as_str().unwrap_or_default();
            ensure!(read.starts_with(name), "{to} {flags}: {seen}");
        }
    }
    let recording = capture.stop()?;
    ensure!(
        recording.beside(15008).is_empty(),
        "{:?}",
        recording.beside(15008)
    );
    ensure!(
        recording.syns().iter().all(|syn| syn.to.port() == 15008),
        "{:?}",
        recording.syns()
    );
    Ok(())
}

/// Each of many simultaneous connections arrives at the server that its thread asked for.
#[test]
fn core_many_threads_never_mix_up_destinations() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let second = pair.b.pod("second")?;
    pair.a.wait_state(&second.uid(), "remote")?;
    pair.b.wait_state(&second.uid(), "enrolled")?;
    let _servers = [
        pair.server.serve("serve banner red --listen [::]:81")?,
        pair.server.serve("serve banner green --listen [::]:82")?,
        second.serve("serve banner blue --listen [::]:81")?,
    ];
    let targets: Vec<_> = [
        (pair.server.v4(81), "red"),
        (pair.server.v6(82), "green"),
        (second.v4(81), "blue"),
        (pair.server.v6(81), "red"),
        (pair.server.v4(82), "green"),
        (second.v6(81), "blue"),
    ]
    .iter()
    .map(|(address, name)| format!("{address}={name}"))
    .collect();
    let seen = pair.client.client(&format!(
        "flood --threads 8 --connections 300 --targets {}",
        targets.join(",")
    ))?;
    ensure!(seen["right"] == 300, "{seen}\n{}", pair.a.log_tail());
    Ok(())
}

/// Connections that the client closed hold its port for a minute; the pod does not run out.
#[test]
fn client_closed_connections_do_not_use_up_the_ports() -> Result<()> {
    const PORTS: u64 = 4_000;
    let pair = Pair::new(Mtls::Strict)?;
    let _blue = pair.server.serve("serve banner blue")?;
    for pod in [&pair.client, &pair.server] {
        let range = format!("30000 {}", 30_000 + PORTS - 1);
        pod.netns().sysctl("net/ipv4/ip_local_port_range", &range)?;
    }
    let wanted = 3 * PORTS;
    let seen = pair.client.client(&format!(
        "flood --threads 8 --connections {wanted} --targets {}=blue",
        pair.server.v4(8080)
    ))?;
    ensure!(seen["right"] == wanted, "{seen}\n{}", pair.a.log_tail());
    Ok(())
}
