//! Five hundred pods on one node.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod, PodSpec};
use isthmus_tests::wait::{patience, until};

const PODS: usize = 500;

/// Five hundred pods come in one file and are enrolled; each has an identity of its own, with
/// which it reaches the server. An agent that is started anew with all of them is not ready
/// before it has read them, and has them all again.
#[test]
fn five_hundred_pods_are_enrolled_at_once() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Strict)?;
    let (node, other) = (mesh.node("many")?, mesh.node("other")?);
    let server = other.pod("server")?;
    node.start()?;
    other.start()?;
    other.wait_enrolled(&server)?;
    let pods = make(&node)?;
    let mut file = String::new();
    for pod in &pods {
        writeln!(file, "{}---", pod.yaml()?)?;
    }
    mesh.write("five-hundred", &file)?;
    wait_enrolled(&node)?;
    ensure!(node.metric("isthmus_enrolled_pods", &[])? == PODS as f64);

    let _server = server.serve("serve banner blue")?;
    all_reach(&node, &pods, &server)?;
    let seen: BTreeSet<String> = other
        .access_log()?
        .iter()
        .filter(|line| line["outcome"] == "ok")
        .filter_map(|line| Some(line["source_identity"].as_str()?.to_owned()))
        .collect();
    let wanted: BTreeSet<String> = pods.iter().map(Pod::identity).collect();
    ensure!(seen == wanted, "{} identities were seen", seen.len());

    node.kill9()?;
    node.launch()?;
    let mut before = String::new();
    until(
        "the agent is ready again",
        patience(60),
        || {
            // Nobody listens in the first instants.
            let Ok(answer) = node.http("/readyz") else {
                return Ok(None);
            };
            if answer.starts_with("HTTP/1.1 503") {
                before = answer;
                return Ok(None);
            }
            Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
        },
        || node.log_tail(),
    )?;
    ensure!(
        before.contains("the configuration is being read for the first time"),
        "it was ready before it had enrolled its pods: {before:?}"
    );
    wait_enrolled(&node)?;
    all_reach(&node, &pods, &server)
}

/// Pods that no configuration names yet, made by several threads. Without IPv6: one bridge
/// with the neighbour discovery of five hundred drowns in it, whoever sends.
fn make(node: &Node) -> Result<Vec<Pod>> {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..THREADS)
            .map(|first| {
                scope.spawn(move || {
                    (first..PODS)
                        .step_by(THREADS)
                        .map(|n| PodSpec::new(&format!("pod-{n}")).only_v4().outside())
                        .map(|spec| node.pod_with(spec))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut pods = Vec::with_capacity(PODS);
        for maker in makers {
            pods.extend(maker.join().ok().context("a thread panicked")??);
        }
        Ok(pods)
    })
}

fn wait_enrolled(node: &Node) -> Result<()> {
    let mut enrolled = 0;
    until(
        "500 pods are enrolled",
        patience(120),
        || {
            let all = node.cli("workloads")?;
            let all = all.as_array().context("a list of workloads")?;
            enrolled = all.iter().filter(|w| w["state"] == "enrolled").count();
            Ok((enrolled == PODS).then_some(()))
        },
        String::new,
    )
    .with_context(|| format!("{enrolled} were"))
}

fn all_reach(node: &Node, pods: &[Pod], server: &Pod) -> Result<()> {
    for pod in pods {
        let seen = pod.client(&format!("connect {}", server.v4(8080)))?;
        let banner = seen["read"].as_str().unwrap_or_default();
        let from = pod.v4(0).ip().to_string();
        if !banner.starts_with("blue ") || !banner.contains(&from) {
            let line = node.wait_access("the failure", |line| {
                line["pod"] == pod.uid() && line["outcome"] != "ok"
            });
            bail!("{}: {seen}: {line:?}", pod.uid());
        }
    }
    Ok(())
}
