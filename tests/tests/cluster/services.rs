//! Services of every kind by their names, with nginx and curl unmodified.

mod database;
mod endpoints;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Apps, Cluster, Namespace};
use isthmus_tests::wait::{self, patience};

use crate::policies::STRICT;

/// nginx on each node as a StatefulSet, and Services of all kinds.
const WEB: &str = "
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

/// All STRICT: what were not carried by the mesh would not be answered at all.
#[test]
fn services_of_every_kind_answer_by_name() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("services")?;
    let apps = Apps::new()
        .and(STRICT)
        .idle("curl", "client-1", "n1")
        .idle("curl", "client-2", "n2");
    namespace.apply(apps.and(WEB).yaml())?;
    for pod in ["web-0", "web-1"] {
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
                seen.insert(namespace.curl(from, family, "http://any:8080/marker-by-name")?);
                if seen == pods {
                    break;
                }
            }
            ensure!(seen == pods, "{from} {family}: {seen:?}");
        }
        // DNS of the StatefulSet's pods, and of all of them.
        for pod in &pods {
            let url = format!("http://{pod}.each/marker-by-name");
            let seen = namespace.curl("client-1", family, &url)?;
            ensure!(seen == *pod, "{url} {family}: {seen}");
        }
        let seen = namespace.curl("client-1", family, "http://each/marker-by-name")?;
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
    let first = namespace.curl("client-1", "-4", "http://same/")?;
    for _ in 0..20 {
        let again = namespace.curl("client-1", "-4", "http://same/")?;
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
            let seen = namespace.curl(client, "-4", "http://near/")?;
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
                let seen = namespace.curl(client, "-4", "http://near/");
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
