//! The endpoints of a Service go and come back while it is in use.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Agent, Apps, Cluster, Namespace};
use isthmus_tests::wait::{self, patience};

use super::wait_endpoints;
use crate::policies::STRICT;

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
