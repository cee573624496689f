//! The cluster without the mesh: what is asserted of the mesh later must hold here, too.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Cluster, Namespace};
use isthmus_tests::wait;

/// A client on n1, and on n2: nginx with one probe of each kind, and PostgreSQL; each has a
/// service.
const APPS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: isthmus-test/curl:1, command: [/bin/sleep, '1000000']}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app: nginx}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: isthmus-test/nginx:1
    startupProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
    readinessProbe: {grpc: {port: 9000}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {selector: {app: nginx}, ipFamilyPolicy: RequireDualStack, ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: isthmus-test/postgres:1
    readinessProbe: {tcpSocket: {port: 5432}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: psql}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: isthmus-test/postgres:1, command: [/bin/sleep, '1000000']}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
";

fn apps(cluster: &Cluster) -> Result<Namespace<'_>> {
    let namespace = cluster.namespace("plain")?;
    namespace.apply(APPS)?;
    for pod in ["client", "nginx", "postgres", "psql"] {
        namespace.wait("condition=Ready", &format!("pod/{pod}"))?;
    }
    Ok(namespace)
}

#[test]
fn services_answer_by_name_across_nodes() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = apps(&cluster)?;
    let curl = |family: &str, host: &str| {
        let url = format!("http://{host}:8080/");
        let words = [
            "curl",
            family,
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            &url,
        ];
        namespace.exec("client", &words)
    };
    let full = format!("nginx.{}.svc.cluster.local", namespace.name());
    for (family, host) in [("-4", "nginx"), ("-6", "nginx"), ("-4", full.as_str())] {
        assert_eq!(curl(family, host)?.trim(), "nginx", "{family} {host}");
    }
    let answer = namespace.exec(
        "psql",
        &[
            "psql",
            "--host=postgres",
            "--username=postgres",
            "-tAc",
            "select 6 * 7",
        ],
    )?;
    assert_eq!(answer.trim(), "42");
    Ok(())
}

#[test]
fn what_a_probe_asks_decides_readiness() -> Result<()> {
    let cluster = Cluster::attach()?;
    let namespace = cluster.namespace("probes")?;
    // The health service listens on 9000: on 80, gRPC finds HTTP/1.
    namespace.apply(&APPS.replace("grpc: {port: 9000}", "grpc: {port: 80}"))?;
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
    let namespace = apps(&cluster)?;
    let capture = isthmus_tests::capture::Capture::start(&cluster.bridge()?)?;
    let words = [
        "curl",
        "-4",
        "--silent",
        "--max-time",
        "10",
        "http://nginx:8080/seen-on-the-wire",
    ];
    namespace.exec("client", &words)?;
    let recording = capture.stop()?;
    ensure!(
        recording.contains(b"/seen-on-the-wire"),
        "a request in clear text was not seen on the bridge"
    );
    Ok(())
}
