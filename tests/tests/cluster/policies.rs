//! Policies of the API: who is let in, who is refused with which reason, and that `explain` says
//! the same.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Agent, Apps, Cluster, Namespace, SYSTEM};
use isthmus_tests::wait::{self, patience};
use serde_json::Value;

const PORT: u16 = 8080;

/// Mutual TLS or nothing, for the namespace that it is applied in.
pub(crate) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

/// Alice and Bob on n1, each with a service account of that name, and an `echo` server on n2.
fn bed(cluster: &Cluster) -> Result<Namespace<'_>> {
    let namespace = cluster.meshed("policies")?;
    for name in ["alice", "bob"] {
        namespace.kubectl(&["create", "serviceaccount", name])?;
    }
    let waits = "command: [/bin/sleep, '1000000']";
    let apps = Apps::new()
        .pod("alice", "n1", waits, "serviceAccountName: alice")
        .pod("bob", "n1", waits, "serviceAccountName: bob")
        .server("server", "n2", "serve echo");
    namespace.run(&apps.and(STRICT))?;
    for node in ["n1", "n2"] {
        wait_verdict(&cluster.agent(node)?, &namespace, "alice", "allowed")?;
    }
    let agent = cluster.agent("n2")?;
    agent.wait_mode(namespace.name(), "server", "STRICT")?;
    Ok(namespace)
}

/// Lets in who has the service account of this name.
fn only(namespace: &Namespace<'_>, account: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: guests}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/{}/sa/{account}]}}}}]}}]
",
        namespace.name()
    )
}

fn explain(agent: &Agent<'_>, namespace: &Namespace<'_>, from: &str) -> Result<Value> {
    let from = format!("{}/{from}", namespace.name());
    let to = format!("{}/server", namespace.name());
    let port = PORT.to_string();
    agent.ask(&["explain", "--from", &from, "--to", &to, "--port", &port])
}

/// Until an agent says this verdict: then it has heard of what was applied.
fn wait_verdict(
    agent: &Agent<'_>,
    namespace: &Namespace<'_>,
    from: &str,
    verdict: &str,
) -> Result<Value> {
    let last = std::cell::RefCell::new(Value::Null);
    wait::until(
        &format!("{from} is {verdict} for {}", agent.pod()),
        patience(60),
        || {
            let seen = explain(agent, namespace, from)?;
            last.replace(seen.clone());
            Ok((seen["verdict"] == verdict).then_some(seen))
        },
        || format!("{:#}", last.borrow()),
    )
}

fn ask(namespace: &Namespace<'_>, from: &str) -> Result<Value> {
    let to = namespace.address("server", 4)?;
    namespace.traffic(from, &format!("connect {to}:{PORT} --send hello"))
}

fn ensure_answered(seen: &Value) -> Result<()> {
    ensure!(seen["read"] == "hello\n", "{seen}");
    Ok(())
}

fn ensure_reset(seen: &Value) -> Result<()> {
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["read"].as_str().is_none_or(str::is_empty),
        "{seen}"
    );
    Ok(())
}

#[test]
fn who_is_not_in_the_mesh_is_refused_under_strict() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = bed(&cluster)?;
    let outside = cluster.namespace("outside")?;
    outside.run(&Apps::new().client("stranger", "n1"))?;
    let to = namespace.address("server", 4)?;
    let agent = cluster.agent("n2")?;
    let seen = outside.traffic("stranger", &format!("connect {to}:{PORT} --send hello"))?;
    ensure_reset(&seen)?;
    let stranger = outside.address("stranger", 4)?.to_string();
    agent.wait_log("the refusal", |line| {
        line["target"] == "access"
            && line["reason"] == "PLAINTEXT_REFUSED"
            && line["dst"] == format!("{to}:{PORT}")
            && line["src"]
                .as_str()
                .is_some_and(|src| src.starts_with(&format!("{stranger}:")))
    })?;
    ensure_answered(&ask(&namespace, "alice")?)?;
    namespace.delete("peerauthentication/default")?;
    // The namespace is PERMISSIVE again as soon as the agent of the server has heard.
    wait::until(
        "the stranger is answered",
        patience(60),
        || {
            let seen = outside.traffic("stranger", &format!("connect {to}:{PORT} --send hello"))?;
            Ok((seen["read"] == "hello\n").then_some(()))
        },
        String::new,
    )
}

#[test]
fn a_policy_lets_in_whom_it_names() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = bed(&cluster)?;
    ensure_answered(&ask(&namespace, "bob")?)?;
    let agents = [cluster.agent("n1")?, cluster.agent("n2")?];
    namespace.apply(&only(&namespace, "alice"))?;
    for agent in &agents {
        let told = wait_verdict(agent, &namespace, "bob", "denied")?;
        let way = &told["ways"][0];
        for side in ["source", "destination"] {
            ensure!(way[side]["reason"] == "POLICY_NO_ALLOW", "{told:#}");
        }
        let told = explain(agent, &namespace, "alice")?;
        ensure!(told["verdict"] == "allowed", "{told:#}");
    }
    ensure_answered(&ask(&namespace, "alice")?)?;
    ensure_reset(&ask(&namespace, "bob")?)?;
    let pod = format!("{}/bob", namespace.name());
    let line = agents[0].wait_log("the denial", |line| {
        line["target"] == "access" && line["pod"] == pod && line["reason"] == "POLICY_NO_ALLOW"
    })?;
    let identity = format!("spiffe://cluster.local/ns/{}/sa/bob", namespace.name());
    ensure!(line["source_identity"] == identity, "{line}");
    let id = line["connection"].as_str().context("a connection's name")?;
    let past = agents[0].ask(&["explain", id])?;
    ensure!(
        past["verdict"] == "denied" && past["happened"]["reason"] == "POLICY_NO_ALLOW",
        "{past:#}"
    );
    Ok(())
}

/// Until the policy's condition has this status and speaks of `word`.
fn wait_accepted(namespace: &Namespace<'_>, status: &str, word: &str) -> Result<()> {
    let what = format!("isthmus.dev/Accepted is {status}");
    namespace.watch("authorizationpolicy/guests", &what, |policy| {
        let all = policy["status"]["conditions"].as_array()?;
        let it = all.iter().find(|it| it["type"] == "isthmus.dev/Accepted")?;
        (it["status"] == status
            && it["observedGeneration"] == policy["metadata"]["generation"]
            && it["message"].as_str()?.contains(word))
        .then_some(())
    })
}

/// What cannot be used replaces nothing, and is named with its field: by the agents, and on the
/// policy itself.
#[test]
fn a_broken_policy_leaves_the_good_one_in_force() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = bed(&cluster)?;
    let agents = [cluster.agent("n1")?, cluster.agent("n2")?];
    namespace.apply(&only(&namespace, "alice"))?;
    for agent in &agents {
        wait_verdict(agent, &namespace, "bob", "denied")?;
    }
    let broken =
        only(&namespace, "bob").replace("}}]}]", "}}], to: [{operation: {ports: ['many']}}]}]");
    ensure!(broken.contains("many"), "{broken}");
    namespace.apply(&broken)?;
    for agent in &agents {
        let last = std::cell::RefCell::new(String::new());
        wait::until(
            "the agent names the problem",
            patience(60),
            || {
                let told = agent.ask(&["problems"])?.to_string();
                let found = told.contains(namespace.name()) && told.contains("many");
                last.replace(told);
                Ok(found.then_some(()))
            },
            || last.borrow().clone(),
        )?;
    }
    wait_accepted(&namespace, "False", "spec.rules[0].to[0].operation.ports")?;
    ensure_answered(&ask(&namespace, "alice")?)?;
    ensure_reset(&ask(&namespace, "bob")?)?;
    namespace.apply(&only(&namespace, "bob"))?;
    wait_accepted(&namespace, "True", "")?;
    for agent in &agents {
        wait_verdict(agent, &namespace, "bob", "allowed")?;
        wait_verdict(agent, &namespace, "alice", "denied")?;
    }
    ensure_answered(&ask(&namespace, "bob")?)?;
    ensure_reset(&ask(&namespace, "alice")?)
}

/// A field of a later version arrives at the agents, which refuse the policy: without the field
/// the rule would let in more than its author meant.
#[test]
fn policy_with_an_unknown_field_is_refused_and_lets_nobody_in() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = bed(&cluster)?;
    let later = only(&namespace, "alice").replace("}}]}]", ", futureField: [x]}}]}]");
    ensure!(later.contains("futureField"), "{later}");
    namespace.apply(&later)?;
    let field = "spec.rules[0].from[0].source.futureField";
    wait_accepted(&namespace, "False", field)?;
    for node in ["n1", "n2"] {
        let told = wait_verdict(&cluster.agent(node)?, &namespace, "alice", "denied")?;
        let way = &told["ways"][0]["destination"];
        ensure!(way["reason"] == "POLICY_UNUSABLE", "{told:#}");
    }
    ensure_reset(&ask(&namespace, "alice")?)?;
    ensure_reset(&ask(&namespace, "bob")?)?;
    namespace.apply(&only(&namespace, "alice"))?;
    wait_accepted(&namespace, "True", "")?;
    wait_verdict(&cluster.agent("n2")?, &namespace, "alice", "allowed")?;
    ensure_answered(&ask(&namespace, "alice")?)
}

/// It is in force as it is written, and denies nothing.
#[test]
fn deny_that_can_never_match_is_not_accepted() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = bed(&cluster)?;
    let deny = only(&namespace, "bob").replace("spec:", "spec:\n  action: DENY");
    namespace.apply(&deny.replace("cluster.local", "elsewhere.example"))?;
    wait_accepted(&namespace, "False", "denies nothing")?;
    namespace.apply(&deny)?;
    wait_accepted(&namespace, "True", "")?;
    wait_verdict(&cluster.agent("n2")?, &namespace, "bob", "denied")?;
    ensure_reset(&ask(&namespace, "bob")?)?;
    ensure_answered(&ask(&namespace, "alice")?)
}

/// Removed also when the test fails: other tests are in the same mesh.
struct Settings<'a>(&'a Cluster);

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        let words = ["delete", "--ignore-not-found", "meshconfig/mesh"];
        if let Err(error) = self
            .0
            .kubectl(&[&["--namespace", SYSTEM], &words[..]].concat())
        {
            eprintln!("the MeshConfig of a test stays behind: {error:#}");
        }
    }
}

/// The key exchange is the mesh's; in another namespace the same object says nothing.
#[test]
fn the_settings_of_the_mesh_are_those_of_its_own_namespace() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let yaml = "
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {meshMTLS: {ecdhCurves: [X25519MLKEM768]}}
";
    let namespace = cluster.namespace("settings")?;
    let agent = cluster.agent("n1")?;
    let curves =
        || -> Result<Value> { Ok(agent.ask(&["status"])?["tls"]["key_exchanges"].clone()) };
    let before = curves()?;
    ensure!(
        before.as_array().is_some_and(|all| all.len() > 1),
        "{before}"
    );
    namespace.apply(&yaml.replace("X25519MLKEM768", "P-256"))?;
    let settings = Settings(&cluster);
    cluster.kubectl_with(&["--namespace", SYSTEM, "apply", "--filename", "-"], yaml)?;
    let only = |wanted: &dyn Fn(&Value) -> bool| {
        wait::until(
            "the key exchanges are as the mesh's settings say",
            patience(60),
            || Ok(Some(curves()?).filter(|now| wanted(now))),
            || format!("{:?}", curves()),
        )
    };
    only(&|now| *now == serde_json::json!(["X25519MLKEM768"]))?;
    drop(settings);
    only(&|now| *now == before)?;
    Ok(())
}
