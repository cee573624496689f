//! Services by their names, with unmodified programs: nginx, curl and PostgreSQL.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Agent, Apps, Cluster, Namespace};
use isthmus_tests::wait::{self, patience};

use crate::policies::STRICT;

/// A client on each node, nginx on each node as a StatefulSet, and Services of all kinds.
const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client-1}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: 'isthmus-test/curl:1', command: [/bin/sleep, '1000000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: client-2}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: 'isthmus-test/curl:1', command: [/bin/sleep, '1000000']}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: each
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: main
        image: isthmus-test/nginx:1
        ports: [{name: http, containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: web}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: any}
spec: {selector: {app: web}, ipFamilyPolicy: RequireDualStack, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: same}
spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {selector: {app: web}, internalTrafficPolicy: Local, ports: [{port: 80}]}
";

fn curl(namespace: &Namespace<'_>, from: &str, family: &str, url: &str) -> Result<String> {
    let words = [
        "curl",
        family,
        "--silent",
        "--show-error",
        "--max-time",
        "30",
        url,
    ];
    namespace
        .exec(from, &words)
        .map(|told| told.trim().to_owned())
}

/// All STRICT: what were not carried by the mesh would not be answered at all.
#[test]
fn services_of_every_kind_answer_by_name() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("services")?;
    namespace.apply(STRICT)?;
    namespace.apply(WEB)?;
    for pod in ["client-1", "client-2", "web-0", "web-1"] {
        namespace.wait("create", &format!("pod/{pod}"))?;
    }
    namespace.wait_all_ready()?;
    let pods: BTreeSet<_> = ["web-0", "web-1"].map(str::to_owned).into();
    let agent = cluster.agent("n1")?;
    for service in ["any", "same", "near"] {
        wait_endpoints(&namespace, service, 2)?;
    }

    let capture = Capture::start(&cluster.bridge()?)?;
    for family in ["-4", "-6"] {
        for from in ["client-1", "client-2"] {
            // A cluster IP: both pods answer. That one is not drawn in thirty has a chance of 2^-29.
            let mut seen = BTreeSet::new();
            for _ in 0..30 {
                seen.insert(curl(
                    &namespace,
                    from,
                    family,
                    "http://any:8080/marker-by-name",
                )?);
                if seen == pods {
                    break;
                }
            }
            ensure!(seen == pods, "{from} {family}: {seen:?}");
        }
        // DNS of the StatefulSet's pods, and of all of them.
        for pod in &pods {
            let url = format!("http://{pod}.each/marker-by-name");
            let seen = curl(&namespace, "client-1", family, &url)?;
            ensure!(seen == *pod, "{url} {family}: {seen}");
        }
        let seen = curl(&namespace, "client-1", family, "http://each/marker-by-name")?;
        ensure!(pods.contains(&seen), "{family}: {seen}");
    }
    let recording = capture.stop()?;
    ensure!(
        !recording.contains(b"marker-by-name"),
        "a request crossed the bridge in the clear"
    );
    let name = format!("{}/any", namespace.name());
    agent.wait_log("the Service's name", |line| {
        line["target"] == "access"
            && line["direction"] == "outbound"
            && line["tls_version"] == "TLSv1.3"
            && line["service"]
                .as_str()
                .is_some_and(|it| it.contains(&name))
    })?;
    affinity(&namespace)?;
    local(&cluster, &namespace)
}

/// A client stays with the pod that it was led to first.
fn affinity(namespace: &Namespace<'_>) -> Result<()> {
    let first = curl(namespace, "client-1", "-4", "http://same/")?;
    for _ in 0..20 {
        let again = curl(namespace, "client-1", "-4", "http://same/")?;
        ensure!(again == first, "{again} after {first}");
    }
    Ok(())
}

/// Each client is led to the pod of its own node, and nowhere when that is gone.
fn local(cluster: &Cluster, namespace: &Namespace<'_>) -> Result<()> {
    let node = |pod: &str| -> Result<String> {
        let object = namespace.get(&format!("pod/{pod}"))?;
        let node = object["spec"]["nodeName"].as_str();
        node.map(str::to_owned).context("a pod that runs")
    };
    let clients = [("client-1", "n1"), ("client-2", "n2")];
    for (client, at) in clients {
        for _ in 0..10 {
            let seen = curl(namespace, client, "-4", "http://near/")?;
            ensure!(node(&seen)? == at, "{client} on {at} was led to {seen}");
        }
    }
    let left = node("web-0")?;
    namespace.kubectl(&["scale", "statefulset/web", "--replicas=1"])?;
    namespace.wait("delete", "pod/web-1")?;
    for (client, at) in clients {
        let name = format!("{}/{client}", namespace.name());
        let agent = cluster.agent(at)?;
        wait::until(
            &format!("{client} is led to its own node or nowhere"),
            patience(60),
            || {
                let seen = curl(namespace, client, "-4", "http://near/");
                if at == left {
                    return Ok(seen.is_ok().then_some(()));
                }
                let told = agent.log()?;
                let last = told.iter().rev().find(|line| line["pod"] == name);
                let why = last.is_some_and(|it| it["reason"] == "SERVICE_NO_LOCAL_ENDPOINT");
                Ok((seen.is_err() && why).then_some(()))
            },
            String::new,
        )?;
    }
    Ok(())
}

/// Until the API has so many ready endpoints of a Service.
fn wait_endpoints(namespace: &Namespace<'_>, service: &str, count: usize) -> Result<()> {
    let selector = format!("--selector=kubernetes.io/service-name={service}");
    let path = "--output=jsonpath={range .items[?(@.addressType==\"IPv4\")].endpoints[?(@.conditions.ready==true)]}x{end}";
    wait::until(
        &format!("{service} has {count} endpoints"),
        patience(60),
        || {
            let told = namespace.kubectl(&["get", "endpointslices", &selector, path])?;
            Ok((told.len() == count).then_some(()))
        },
        String::new,
    )
}

#[test]
fn a_database_answers_through_its_service() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("postgres")?;
    namespace.run(&Apps::new().and(STRICT).and(
        "
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: 'isthmus-test/postgres:1', readinessProbe: {tcpSocket: {port: 5432}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: psql}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: 'isthmus-test/postgres:1', command: [/bin/sleep, '1000000']}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
",
    ))?;
    wait_endpoints(&namespace, "postgres", 1)?;
    let ask = |query: &str| {
        let words = [
            "psql",
            "--host=postgres",
            "--username=postgres",
            "-tAc",
            query,
        ];
        namespace.exec("psql", &words)
    };
    let capture = Capture::start(&cluster.bridge()?)?;
    let rows = "select string_agg('marker-of-rows', '') from generate_series(1, 20000)";
    let answer = ask(rows)?;
    ensure!(
        answer.trim() == "marker-of-rows".repeat(20_000),
        "{} bytes",
        answer.len()
    );
    // The server says who the client is by the address that it sees.
    let address = ask("select host(inet_client_addr())")?;
    ensure!(
        address.trim() == namespace.address("psql", 4)?.to_string(),
        "{address}"
    );
    ensure!(
        !capture.stop()?.contains(b"marker-of-rows"),
        "rows crossed the bridge in the clear"
    );
    Ok(())
}

/// A Service of three servers: with none it refuses and says why; while one of them is killed,
/// nobody notices.
#[test]
fn endpoints_go_and_come_back() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("endpoints")?;
    namespace.run(&Apps::new().client("client", "n1").and(STRICT).and(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 3
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      nodeSelector: {kubernetes.io/hostname: n2}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: isthmus-test/traffic:1
        # The container outlives its server.
        command: [/bin/sh, -c, 'traffic serve banner blue; sleep 1000000']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
",
    ))?;
    let available = |count: u64| {
        namespace.watch("deployment/server", "its replicas are there", |it| {
            let status = &it["status"];
            let seen = it["status"]["observedGeneration"] == it["metadata"]["generation"];
            (seen
                && status["replicas"].as_u64().unwrap_or(0) == count
                && status["readyReplicas"].as_u64().unwrap_or(0) == count)
                .then_some(())
        })
    };
    available(3)?;
    wait_endpoints(&namespace, "server", 3)?;
    let service = namespace.get("service/server")?;
    let address = service["spec"]["clusterIP"].as_str();
    let to = format!("{}:80", address.context("a cluster IP")?);
    let connect = || namespace.traffic("client", &format!("connect {to}"));
    let answered = || {
        wait::until(
            "the Service answers",
            patience(60),
            || Ok((connect()?["errno"].is_null()).then_some(())),
            || format!("{:?}", connect()),
        )
    };
    answered()?;
    let agent = cluster.agent("n1")?;
    killed_under_load(&agent, &namespace, &to)?;

    namespace.kubectl(&["scale", "deployment/server", "--replicas=0"])?;
    available(0)?;
    let name = format!("{}/client", namespace.name());
    wait::until(
        "the Service refuses for want of endpoints",
        patience(60),
        || {
            let seen = connect()?;
            let told = agent.log()?;
            let reason = told.iter().rev().find(|line| line["pod"] == name);
            let reason = reason.is_some_and(|line| line["reason"] == "SERVICE_NO_ENDPOINT");
            Ok((reason && seen["errno"] == "ECONNRESET").then_some(()))
        },
        || format!("{:?}", connect()),
    )?;
    namespace.kubectl(&["scale", "deployment/server", "--replicas=1"])?;
    available(1)?;
    answered()
}

/// Connections one after the other, while the server of one pod is killed with -9: until its
/// probes have failed often enough, it stays among the endpoints, and refuses.
fn killed_under_load(agent: &Agent<'_>, namespace: &Namespace<'_>, to: &str) -> Result<()> {
    const THREADS: u64 = 2;
    let script = format!(
        "traffic flood --until-told --threads {THREADS} --pause 20 --targets {to}=blue \
         > /flood < /dev/null 2>&1 & echo $!"
    );
    let flood = namespace.exec("client", &["sh", "-c", &script])?;
    let told = || namespace.exec("client", &["cat", "/flood"]);
    let right = || -> Result<usize> {
        let told = told()?;
        let counts = told.lines().filter_map(|line| line.strip_prefix("right "));
        Ok(counts.filter_map(|n| n.parse().ok()).max().unwrap_or(0))
    };
    let more = || -> Result<()> {
        let wanted = right()? + 100;
        wait::until(
            "a hundred connections more are answered",
            patience(60),
            || Ok((right()? >= wanted).then_some(())),
            || told().unwrap_or_default(),
        )
    };
    more()?;
    let pods = namespace.kubectl(&["get", "pods", "--selector=app=server", "--output=name"])?;
    let pod = pods.lines().next().context("a server")?;
    namespace.exec(pod, &["sh", "-c", "kill -9 $(pidof traffic)"])?;
    let client = format!("{}/client", namespace.name());
    agent.wait_log("that another endpoint was tried", |line| {
        line["target"] == "access"
            && line["pod"] == client
            && line["outcome"] == "ok"
            && line["retries"].as_u64().is_some_and(|retries| retries > 0)
    })?;
    wait_endpoints(namespace, "server", 2)?;
    more()?;
    namespace.exec("client", &["kill", flood.trim()])?;
    let tally = wait::until(
        "the flood tells its tally",
        patience(60),
        || {
            Ok(told()?
                .lines()
                .find(|it| it.starts_with('{'))
                .map(str::to_owned))
        },
        String::new,
    )?;
    let tally: serde_json::Value = serde_json::from_str(&tally)?;
    let errors = tally["errors"].as_object().context("errors by name")?;
    let errors: u64 = errors.values().filter_map(serde_json::Value::as_u64).sum();
    // What the server had accepted when it was killed, at most one of each thread, is lost.
    ensure!(
        errors <= THREADS && tally["wrong"] == serde_json::json!({}),
        "{tally}"
    );
    Ok(())
}
