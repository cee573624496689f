//! An agent is asked from a workstation: by the `kubectl exec` of the README, and by `--node` and
//! `--pod` of the command line.

use std::fs;

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, SYSTEM};
use serde_json::Value;

#[test]
fn exec_of_the_readme_asks_an_agent() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let line = "kubectl -n isthmus-system exec ds/isthmus-agent -- mesh-agent status";
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).context("reading the README")?;
    ensure!(readme.contains(line), "the README does not have {line:?}");
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let told = cluster.kubectl(&words)?;
    ensure!(told.contains("KERNEL PROGRAM"), "{told}");
    Ok(())
}

#[test]
fn remote_commands_reach_the_agent_of_a_node_and_of_a_pod() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("remote")?;
    namespace.run(&Apps::new().client("web", "n2"))?;
    cluster
        .agent("n2")?
        .wait_state(namespace.name(), "web", "enrolled")?;
    let ask = |words: &[&str]| -> Result<Value> {
        let told = cluster.mesh_agent(&[words, &["-o", "json"]].concat(), None)?;
        let told = told.success()?;
        serde_json::from_str(&told).with_context(|| format!("reading {words:?}: {told}"))
    };
    for node in ["n1", "n2"] {
        let workloads = ask(&["--node", node, "workloads"])?;
        let all = workloads.as_array().context("no list")?;
        let web = all.iter().find(|it| it["namespace"] == namespace.name());
        let web = web.with_context(|| format!("{workloads:#}"))?;
        ensure!(web["local"] == (node == "n2"), "{web:#}");
        let status = ask(&["status", "--node", node])?;
        ensure!(status["node"] == node, "{status:#}");
    }
    let pod = format!("{}/web", namespace.name());
    let status = ask(&["--pod", &pod, "status"])?;
    ensure!(status["node"] == "n2", "{status:#}");
    let to = format!("{}/web", namespace.name());
    let explained = ask(&[
        "explain", "--pod", &pod, "--from", &pod, "--to", &to, "--port", "80",
    ])?;
    ensure!(explained["verdict"] == "allowed", "{explained:#}");
    let table = cluster.mesh_agent(&["--pod", &pod, "workloads"], None)?;
    ensure!(table.success()?.starts_with("WORKLOAD"));
    Ok(())
}

#[test]
fn remote_errors_name_cause_and_cure() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let refused = |words: &[&str], parts: &[&str]| -> Result<()> {
        let told = cluster.mesh_agent(words, None)?;
        let said = format!("{told:?}");
        ensure!(told.status.code() == Some(1), "{words:?}: {said}");
        for part in parts {
            ensure!(said.contains(part), "{words:?}: {part:?} is not in {said}");
        }
        Ok(())
    };
    let none = "no agent runs on node n9; there are agents on n1, n2";
    refused(&["--node", "n9", "status"], &[none])?;
    let gone = [
        "there is no pod default/gone",
        "kubectl -n default get pods",
    ];
    refused(&["--pod", "default/gone", "status"], &gone)?;
    // What the command in the pod says, and its exit code.
    let unknown = ["--node", "n1", "explain", "ffffffffffffffff"];
    refused(&unknown, &["ffffffffffffffff"])?;
    Ok(())
}

#[test]
fn remote_commands_name_the_permission_that_is_missing() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    // The administrator as a user who may do nothing.
    let admin = cluster.admin_kubeconfig();
    let mut config: serde_yaml_ng::Value = serde_yaml_ng::from_str(&fs::read_to_string(&admin)?)?;
    config["users"][0]["user"]["as"] = "isthmus-test-nobody".into();
    // In the cluster's folder, which only root reads.
    let nobody = admin.with_file_name("nobody.kubeconfig");
    fs::write(&nobody, serde_yaml_ng::to_string(&config)?)?;
    let told = cluster.mesh_agent(&["--node", "n1", "status"], Some(&nobody));
    fs::remove_file(&nobody)?;
    let told = told?;
    let said = format!("{told:?}");
    ensure!(told.success().is_err(), "{said}");
    let permission = format!("ask for the permission to list pods in namespace {SYSTEM}");
    ensure!(said.contains(&permission), "{said}");
    Ok(())
}
