//! Services: a cluster IP leads to a ready endpoint, or to a reset with its reason.

mod choice;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Pod, ServicePort};

use crate::pair::{Banner, Pair, ensure_reset};

/// Two ready endpoints share the connections, the third gets none; the application sees the
/// cluster IP as its peer. Both families.
#[test]
fn a_cluster_ip_leads_to_the_ready_endpoints() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let (second, unready) = (pair.b.pod("second")?, pair.b.pod("unready")?);
    for pod in [&second, &unready] {
        pair.b.wait_state(&pod.uid(), "enrolled")?;
        pair.a.wait_state(&pod.uid(), "remote")?;
    }
    let _servers = [
        pair.server.serve("serve banner red")?,
        second.serve("serve banner blue")?,
        unready.serve("serve banner unready")?,
    ];
    let port = ServicePort {
        port: 80,
        target: 8080,
    };
    let pods = [(&pair.server, true), (&second, true), (&unready, false)];
    let (v4, v6) = pair.a.after(|| pair.mesh.service("shop", &[port], &pods))?;
    for to in [
        SocketAddr::new(v4.into(), 80),
        SocketAddr::new(v6.into(), 80),
    ] {
        let mut answers = BTreeMap::<String, u32>::new();
        for _ in 0..30 {
            let seen = pair.client.client(&format!("connect {to}"))?;
            ensure!(seen["getpeername"] == to.to_string(), "{seen}");
            *answers.entry(Banner::of(&seen)?.name).or_default() += 1;
        }
        // That one of two is never drawn in thirty has a chance of 2^-29.
        ensure!(
            answers.keys().map(String::as_str).eq(["blue", "red"]),
            "{to}: {answers:?}"
        );
    }
    let line = pair
        .a
        .wait_access("the service", |line| line["dst"] == format!("{v4}:80"))?;
    ensure!(
        line["service"]
            .as_str()
            .is_some_and(|name| name.contains("shop"))
            && line["source_identity"] == pair.client.identity()
            && line["tls_version"] == "TLSv1.3",
        "{line}"
    );
    Ok(())
}

/// The port's name, not its number, tells where the pods listen.
#[test]
fn a_service_port_may_go_by_name() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _servers = [
        pair.server.serve("serve banner web --listen [::]:8080")?,
        pair.server.serve("serve banner admin --listen [::]:9000")?,
    ];
    let address = pair.server.v4(0).ip();
    let yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: named, namespace: default}}
spec:
  clusterIP: 10.97.0.1
  clusterIPs: [10.97.0.1]
  selector: {{app: server}}
  ports:
    - {{name: admin, port: 80, targetPort: admin-port, protocol: TCP}}
    - {{name: web, port: 8080, targetPort: web-port, protocol: TCP}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: named-1
  namespace: default
  labels: {{kubernetes.io/service-name: named}}
addressType: IPv4
ports:
  - {{name: web, port: 8080, protocol: TCP}}
  - {{name: admin, port: 9000, protocol: TCP}}
endpoints:
  - {{addresses: [{address}], conditions: {{ready: true}}}}
"
    );
    pair.a.after(|| pair.mesh.write("service-named", &yaml))?;
    for (to, name) in [("10.97.0.1:80", "admin"), ("10.97.0.1:8080", "web")] {
        let seen = pair.client.client(&format!("connect {to}"))?;
        ensure!(Banner::of(&seen)?.name == name, "{to}: {seen}");
    }
    Ok(())
}

/// An endpoint whose application, whose agent or whose machine is gone costs the application
/// nothing: another endpoint answers.
#[test]
fn a_failed_endpoint_is_passed_over() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let agentless = pair.mesh.node("three")?;
    let (deaf, abandoned) = (pair.b.pod("deaf")?, agentless.pod("abandoned")?);
    pair.b.wait_state(&deaf.uid(), "enrolled")?;
    for pod in [&deaf, &abandoned] {
        pair.a.wait_state(&pod.uid(), "remote")?;
    }
    let _blue = pair.server.serve("serve banner blue")?;
    let pods = [(&deaf, true), (&abandoned, true), (&pair.server, true)];
    let (v4, v6) = pair
        .a
        .after(|| pair.mesh.service("shop", &[8080.into()], &pods))?;
    for ip in [v4.into(), v6.into()] {
        let to = SocketAddr::new(ip, 8080);
        for _ in 0..12 {
            let seen = pair.client.client(&format!("connect {to}"))?;
            ensure!(
                seen["connected"] == true && Banner::of(&seen)?.name == "blue",
                "{seen}\n{}",
                pair.a.log_tail()
            );
        }
    }
    let lines = pair.a.access_log()?;
    ensure!(
        lines.iter().all(|line| line["outcome"] == "ok"),
        "{lines:#?}"
    );
    // The attempts at the others were made, or nothing was shown.
    pair.b.wait_access("a refusal by the deaf pod", |line| {
        line["dst"] == deaf.v4(8080).to_string() && line["reason"] == "APP_REFUSED"
    })?;
    Ok(())
}

/// When no endpoint answers, the application gets a reset and the log the last reason.
#[test]
fn a_service_of_failed_endpoints_is_a_reset() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let (v4, _) = pair.a.after(|| {
        pair.mesh
            .service("shop", &[8080.into()], &[(&pair.server, true)])
    })?;
    ensure_reset(&pair.client.client(&format!("connect {v4}:8080"))?)?;
    let line = pair
        .a
        .wait_access("the failure", |line| line["dst"] == format!("{v4}:8080"))?;
    ensure!(
        line["reason"] == "APP_REFUSED" && line["upstream"] == pair.server.v4(8080).to_string(),
        "{line}"
    );
    Ok(())
}

/// A port that the service does not have, and a service with nobody ready: a reset, each with
/// its own reason, and nothing leaves the pod.
#[test]
fn a_service_that_leads_nowhere_is_a_reset() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let (shop, shop6) = pair.a.after(|| {
        pair.mesh
            .service("shop", &[80.into()], &[(&pair.server, true)])
    })?;
    let (idle, idle6) = pair.a.after(|| {
        pair.mesh
            .service("idle", &[80.into()], &[(&pair.server, false)])
    })?;
    let capture = pair.mesh.capture()?;
    for (ip, port, reason) in [
        (shop.into(), 81, "SERVICE_NO_PORT"),
        (shop6.into(), 81, "SERVICE_NO_PORT"),
        (idle.into(), 80, "SERVICE_NO_ENDPOINT"),
        (idle6.into(), 80, "SERVICE_NO_ENDPOINT"),
    ] {
        let to = SocketAddr::new(ip, port);
        let seen = pair.client.client(&format!("connect {to} --send secret"))?;
        ensure_reset(&seen)?;
        let line = pair
            .a
            .wait_access("the refusal", |line| line["dst"] == to.to_string())?;
        ensure!(line["reason"] == reason, "{to}: {line}");
    }
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    Ok(())
}

/// A pod that asks for a service and is its only endpoint reaches itself, within itself.
#[test]
fn a_pod_reaches_itself_by_its_service() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let pod: &Pod = &pair.client;
    let _own = pod.serve("serve banner own")?;
    let port = ServicePort {
        port: 80,
        target: 8080,
    };
    let (v4, v6) = pair
        .a
        .after(|| pair.mesh.service("self", &[port], &[(pod, true)]))?;
    let capture = pair.mesh.capture()?;
    for (to, own) in [
        (SocketAddr::new(v4.into(), 80), pod.v4(8080)),
        (SocketAddr::new(v6.into(), 80), pod.v6(8080)),
    ] {
        let seen = pod.client(&format!("connect {to}"))?;
        ensure!(Banner::of(&seen)?.name == "own", "{seen}");
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
        // The application sees the very socket of the client, and its own.
        let client: SocketAddr = seen["getsockname"].as_str().context("a name")?.parse()?;
        let banner = Banner::of(&seen)?;
        ensure!(
            banner.accept == client && banner.peer == client && banner.local == own,
            "{seen}"
        );
    }
    ensure!(capture.stop()?.directions().count() == 0, "it left the pod");
    Ok(())
}
