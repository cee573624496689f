//! Connections that a pod had before it was enrolled: they go on under PERMISSIVE, and end under
//! STRICT.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::wait::wait_until;
use serde_json::Value;

use crate::pair::counted;

/// They go on.
#[test]
fn core_older_connections_go_on_under_permissive() -> Result<()> {
    let mut old = Older::new(Mtls::Permissive)?;
    old.enrol()?;
    wait_until("all four still carry bytes", || old.directions() == 8)?;
    for client in &mut old.clients {
        ensure!(client.is_running()?, "a connection ended");
    }
    Ok(())
}

/// They are reset, both ways and in both families, and carry nothing more.
#[test]
fn core_older_connections_are_reset_under_strict() -> Result<()> {
    let mut old = Older::new(Mtls::Strict)?;
    old.enrol()?;
    for client in &mut old.clients {
        let status = client.wait()?;
        ensure!(!status.success(), "a connection went on to its end");
    }
    ensure!(old.directions() == 0, "TCP still carries bytes");
    Ok(())
}

/// The guard alone, without anybody resetting anything, lets none of their packets in or out.
#[test]
fn the_guard_drops_older_connections_of_a_strict_pod() -> Result<()> {
    let mut old = Older::new(Mtls::Permissive)?;
    old.enrol()?;
    wait_until("all four still carry bytes", || old.directions() == 8)?;
    old.mark_strict()?;
    for counter in ["guard_egress_strict", "guard_ingress_strict"] {
        wait_until(counter, || counted(&old.node, counter).is_ok_and(|n| n > 0))?;
    }
    // Four sockets try again and again; some of those attempts fall into the recording.
    let capture = old.mesh.capture()?;
    let before = counted(&old.node, "guard_egress_strict")?;
    wait_until("the pod tries again", || {
        counted(&old.node, "guard_egress_strict").is_ok_and(|n| n >= before + 4)
    })?;
    let recording = capture.stop()?;
    let own = old.pod.addresses();
    let leaks: Vec<_> = recording
        .directions()
        .filter(|direction| own.contains(&direction.from.ip()))
        .collect();
    ensure!(leaks.is_empty(), "{leaks:?}");
    for client in &mut old.clients {
        ensure!(client.is_running()?, "somebody reset a connection");
    }
    Ok(())
}

/// A pod that talks with a client and a server outside, in both families, without pause. Fields
/// are dropped in this order.
struct Older {
    clients: Vec<Process>,
    _servers: Vec<Process>,
    pod: Pod,
    outside: Pod,
    node: Node,
    mesh: Mesh,
}

impl Older {
    fn new(mode: Mtls) -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(mode)?;
        let node = mesh.node("one")?;
        let outside = mesh.outsider("outside")?;
        let pod = node.pod_with(PodSpec::new("web").outside())?;
        let servers = vec![outside.serve("serve echo")?, pod.serve("serve echo")?];
        let chat = |from: &Pod, to| from.start(&format!("pingpong {to} --rounds 2000000"));
        let clients = vec![
            chat(&pod, outside.v4(8080))?,
            chat(&pod, outside.v6(8080))?,
            chat(&outside, pod.v4(8080))?,
            chat(&outside, pod.v6(8080))?,
        ];
        node.start()?;
        let old = Self {
            clients,
            _servers: servers,
            pod,
            outside,
            node,
            mesh,
        };
        wait_until("all four carry bytes", || old.directions() == 8)?;
        Ok(old)
    }

    fn enrol(&mut self) -> Result<()> {
        self.pod.configure()?;
        self.node.wait_state(&self.pod.uid(), "enrolled")
    }

    /// How many directions carry bytes at the moment; each connection has two.
    fn directions(&self) -> usize {
        let seen = || {
            let capture = self.mesh.capture()?;
            // As long as a like conversation takes that does not cross the bridge.
            self.outside
                .traffic("pingpong 127.0.0.1:8080 --rounds 300")?
                .success()?;
            anyhow::Ok(capture.stop()?.directions().count())
        };
        seen().unwrap_or(usize::MAX)
    }

    /// Tells the guard, and nobody else, that the pod is STRICT.
    fn mark_strict(&self) -> Result<()> {
        let map = self.node.pin_dir().join("maps/isthmus_cgroups");
        let map = map.to_str().context("a path in UTF-8")?;
        let dump = self
            .outside
            .run("bpftool", &["-j", "map", "dump", "pinned", map])?
            .success()?;
        let dump: Value = serde_json::from_str(&dump)?;
        let bytes = |of: &str| -> Result<Vec<String>> {
            dump[0][of]
                .as_array()
                .with_context(|| format!("{of} in {dump}"))?
                .iter()
                .map(|byte| Ok(byte.as_str().context("a byte")?.to_owned()))
                .collect()
        };
        let (key, mut value) = (bytes("key")?, bytes("value")?);
        // After the namespace's cookie of eight bytes: the flags.
        ensure!(value[8..12].iter().all(|byte| byte == "0x00"), "{dump}");
        "0x01".clone_into(&mut value[8]);
        let mut words = vec!["map", "update", "pinned", map, "key"];
        words.extend(key.iter().map(String::as_str));
        words.push("value");
        words.extend(value.iter().map(String::as_str));
        self.outside.run("bpftool", &words)?.success()?;
        Ok(())
    }
}
