//! What the mesh leaves alone: UDP, what stays within a pod, and pods that are not enrolled.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mtls, PodSpec};

use crate::pair::{Banner, Pair, counted};

/// Datagrams come and go as ever, in both families, although TCP is STRICT.
#[test]
fn core_udp_is_untouched() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let outside = pair.mesh.outsider("outside")?;
    let _servers = [
        outside.serve("udp-echo --listen [::]:84")?,
        pair.server.serve("udp-echo --listen [::]:84")?,
    ];
    let capture = pair.mesh.capture()?;
    for (from, to) in [
        (&pair.client, outside.v4(84)),
        (&pair.client, outside.v6(84)),
        (&pair.client, pair.server.v4(84)),
        (&outside, pair.server.v4(84)),
        (&outside, pair.server.v6(84)),
    ] {
        let seen = from.client(&format!("udp {to}"))?;
        ensure!(seen["read"] == "question", "{to}: {seen}");
        ensure!(seen["getpeername"] == to.to_string(), "{to}: {seen}");
    }
    let recording = capture.stop()?;
    ensure!(recording.contains(b"question"), "not on the bridge");
    ensure!(recording.directions().count() == 0, "TCP was involved");
    Ok(())
}

/// Loopback and the pod's own addresses lead straight to the application, which sees the true
/// client, and the agent has no part in it.
#[test]
fn core_what_stays_in_the_pod_is_untouched() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let pod = &pair.client;
    let _servers = [
        pod.serve("serve banner own --mptcp")?,
        pod.serve("serve banner local --listen 127.0.0.1:81")?,
    ];
    let before = counted(&pair.a, "redirected")?;
    let v4 = pod.v4(8080);
    for to in [
        "127.0.0.1:8080".parse()?,
        "127.8.8.8:8080".parse()?,
        "0.0.0.0:8080".parse()?,
        "[::]:8080".parse()?,
        "[::1]:8080".parse()?,
        "127.0.0.1:81".parse()?,
        v4,
        pod.v6(8080),
    ] {
        for flags in [
            "",
            "--v4mapped",
            "--mptcp",
            "--nonblocking",
            "--fastopen --send x",
        ] {
            let seen = pod.client(&format!("connect {to} {flags}"))?;
            let read = seen["read"].as_str().unwrap_or_default();
            ensure!(
                read.starts_with(if to.port() == 81 { "local " } else { "own " }),
                "{to} {flags}: {seen}"
            );
            let client = seen["getsockname"].as_str().unwrap_or_default();
            let client = client.rsplit(':').next().unwrap_or_default();
            ensure!(
                read.contains(&format!(":{client} peer=")),
                "{to} {flags}: the server saw another client: {seen}"
            );
            let port = format!(":{}", to.port());
            ensure!(
                seen["getpeername"]
                    .as_str()
                    .is_some_and(|name| name.ends_with(&port)),
                "{to} {flags}: {seen}"
            );
        }
    }
    let closed = pod.client(&format!("connect {}", pod.v4(9)))?;
    ensure!(closed["errno"] == "ECONNREFUSED", "{closed}");
    let after = counted(&pair.a, "redirected")?;
    ensure!(before == after, "{} redirected", after - before);
    ensure!(
        pair.a.access_log()?.is_empty(),
        "{:?}",
        pair.a.access_log()?
    );
    Ok(())
}

/// A pod below the same cgroup that is not in the mesh talks plain TCP as before, both ways.
#[test]
fn core_pods_that_are_not_enrolled_are_untouched() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let outside = pair.mesh.outsider("outside")?;
    pair.mesh.write(
        "namespace-plain",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: plain\n",
    )?;
    let unknown = pair.a.pod_with(PodSpec::new("unknown").outside())?;
    let unmeshed = pair
        .a
        .pod_with(PodSpec::new("unmeshed").namespace("plain"))?;
    pair.a.wait_state(&unmeshed.uid(), "outside-mesh")?;
    let _server = outside.serve("serve banner outside")?;
    for pod in [&unknown, &unmeshed] {
        let _own = pod.serve("serve banner plain")?;
        let capture = pair.mesh.capture()?;
        for (from, to, name) in [
            (pod, outside.v4(8080), "outside"),
            (pod, outside.v6(8080), "outside"),
            (&outside, pod.v4(8080), "plain"),
            (&outside, pod.v6(8080), "plain"),
        ] {
            let seen = from.client(&format!("connect {to}"))?;
            let banner = Banner::of(&seen)?;
            ensure!(banner.name == name && banner.local == to, "{to}: {seen}");
            ensure!(seen["getsockname"] == banner.accept.to_string(), "{seen}");
            ensure!(seen["getpeername"] == to.to_string(), "{seen}");
        }
        let recording = capture.stop()?;
        ensure!(recording.syns().len() == 4, "{:?}", recording.syns());
        ensure!(
            recording.syns().iter().all(|syn| syn.to.port() == 8080),
            "{:?}",
            recording.syns()
        );
    }
    ensure!(counted(&pair.a, "redirected")? == 0, "one was redirected");
    ensure!(counted(&pair.a, "inbound")? == 0, "one was taken");
    Ok(())
}
