//! The cluster without the mesh: what is asserted of the mesh later must hold here, too.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace};
use isthmus_tests::wait;

/// A client on n1, and on n2: nginx with one probe of each kind, and PostgreSQL; each has a
/// service. `readiness` is nginx's probe of that kind.
fn apps(readiness: &str) -> Apps {
    let probes = format!(
        "startupProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}, \
         readinessProbe: {{{readiness}, periodSeconds: 1}}, \
         livenessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}"
    );
    Apps::new()
        .idle("curl", "client", "n1")
        .of_image("nginx", "nginx", "n2", &probes)
        .service("nginx", "{port: 8080, targetPort: 80}")
        .postgres()
}

fn running(cluster: &Cluster) -> Result<Namespace<'_>> {
    let namespace = cluster.namespace("plain")?;
    namespace.run(&apps("grpc: {port: 9000}"))?;
    // The nodes' proxies hear of an endpoint after its pod is ready.
    for family in ["-4", "-6"] {
        let ask = || namespace.curl("client", family, "http://nginx:8080/");
        wait_answer(&format!("nginx answers with {family}"), ask)?;
    }
    wait_answer("PostgreSQL answers", || namespace.sql("select 1"))?;
    Ok(namespace)
}

fn wait_answer(what: &str, ask: impl Fn() -> Result<String>) -> Result<()> {
    wait::until(
        what,
        wait::patience(30),
        || ask().map(|_| Some(())),
        String::new,
    )
}

#[test]
fn services_answer_by_name_across_nodes() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = running(&cluster)?;
    let full = format!("nginx.{}.svc.cluster.local", namespace.name());
    for (family, host) in [("-4", "nginx"), ("-6", "nginx"), ("-4", full.as_str())] {
        let answer = namespace.curl("client", family, &format!("http://{host}:8080/"))?;
        assert_eq!(answer, "nginx", "{family} {host}");
    }
    assert_eq!(namespace.sql("select 6 * 7")?, "42");
    Ok(())
}

#[test]
fn what_a_probe_asks_decides_readiness() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = cluster.namespace("probes")?;
    // The health service listens on 9000: on 80, gRPC finds HTTP/1.
    namespace.apply(apps("grpc: {port: 80}").yaml())?;
    wait::until(
        "an event tells of the failed probe",
        wait::patience(60),
        || {
            let events = namespace.events("Pod/nginx")?;
            let failed = |event: &String| event.starts_with("Unhealthy: Readiness probe failed");
            Ok(events.into_iter().find(failed))
        },
        || namespace.events("Pod/nginx").unwrap_or_default().join("\n"),
    )?;
    let pod = namespace.get("pod/nginx")?;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["started"], true, "{status:#}");
    assert_eq!(status["ready"], false, "{status:#}");
    Ok(())
}

#[test]
fn a_node_looks_like_a_machine() -> Result<()> {
    let cluster = Cluster::attach()?;
    for node in cluster.nodes() {
        assert_eq!(node.run(&["hostname"])?.trim(), node.name());
        let mounts = node.run(&["cat", "/proc/self/mountinfo"])?;
        for place in ["/sys/fs/bpf", "/run/netns"] {
            let mount = mounts
                .lines()
                .find(|line| line.split(' ').nth(4) == Some(place))
                .with_context(|| format!("nothing is mounted on {place}"))?;
            // What a pod with HostToContainer sees of later mounts comes by a shared mount.
            ensure!(mount.contains(" shared:"), "{place} is not shared: {mount}");
        }
        let root = node.cgroup()?;
        for service in ["kubelet", "containerd"] {
            let procs = root.join(format!("system.slice/{service}.service/cgroup.procs"));
            let processes = std::fs::read_to_string(&procs)?;
            ensure!(!processes.is_empty(), "{} is empty", procs.display());
        }
        ensure!(root.join("kubepods").is_dir(), "no cgroup of pods");
        assert_eq!(
            node.run(&["ls", "/etc/cni/net.d"])?.trim(),
            "10-bridge.conflist"
        );
    }
    Ok(())
}

#[test]
fn frames_between_nodes_cross_the_bridge() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = running(&cluster)?;
    let capture = isthmus_tests::capture::Capture::start(&cluster.bridge()?)?;
    namespace.curl("client", "-4", "http://nginx:8080/seen-on-the-wire")?;
    let recording = capture.stop()?;
    ensure!(
        recording.contains(b"/seen-on-the-wire"),
        "a request in clear text was not seen on the bridge"
    );
    Ok(())
}
