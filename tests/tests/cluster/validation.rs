//! The definitions in `deploy/crds` refuse what the agent's table of cases says they do, and
//! nothing that the agent accepts. Policies for gateways refuse no connection.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster};
use isthmus_tests::wait::{self, patience};
use serde_json::{Value, json};

/// The agent's own table.
const TABLE: &str = include_str!("../../../mesh-agent/src/policy/testdata/validation.yaml");

#[test]
fn definitions_refuse_what_the_table_says() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let table: Value = serde_yaml_ng::from_str(TABLE)?;
    let mut wrong = Vec::new();
    for (kind, cases) in table.as_object().context("no table")? {
        let cases = cases.as_array().context("no list")?;
        let items: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(i, case)| {
                json!({
                    "apiVersion": "security.istio.io/v1",
                    "kind": kind,
                    "metadata": {"name": format!("case-{i}"), "annotations": case["annotations"]},
                    "spec": case["spec"],
                })
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        // It goes on after one that is refused, and fails in the end.
        let words = [
            "create",
            "--dry-run=server",
            "--output=name",
            "--filename",
            "-",
        ];
        let refused = match cluster.kubectl_with(&words, &list) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        for (i, case) in cases.iter().enumerate() {
            let is_refused = refused.contains(&format!("\"case-{i}\" is invalid"));
            if is_refused != (case["crd"] == true) {
                wrong.push(format!("{kind} {}: refused: {is_refused}", case["name"]));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}\n{refused}");
    }
    Ok(())
}

/// Removed also when the test fails: it is for the whole mesh.
struct RootPolicy<'a>(&'a Cluster);

impl Drop for RootPolicy<'_> {
    fn drop(&mut self) {
        let words = [
            "--namespace",
            ROOT,
            "delete",
            "authorizationpolicy/waypoints",
        ];
        if let Err(error) = self.0.kubectl(&words) {
            eprintln!("a policy of a test stays behind: {error:#}");
        }
    }
}

const ROOT: &str = "istio-system";

#[test]
fn policies_of_waypoints_refuse_no_connection() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("waypoints")?;
    let apps = Apps::new().client("client", "n1");
    namespace.run(&apps.server("server", "n2", "serve echo"))?;
    // It may be there of another test.
    let _ = cluster.kubectl(&["create", "namespace", ROOT]);
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: waypoints}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
";
    let guard = RootPolicy(&cluster);
    cluster.kubectl_with(&["--namespace", ROOT, "apply", "--filename", "-"], policy)?;
    let of_policy = ["--namespace", ROOT, "authorizationpolicy/waypoints"];
    let message = cluster.watch(&of_policy, "Accepted is True", |policy| {
        let all = policy["status"]["conditions"].as_array()?;
        let ours = all.iter().find(|it| it["type"] == "isthmus.dev/Accepted")?;
        (ours["status"] == "True").then(|| ours["message"].as_str().map(str::to_owned))?
    })?;
    ensure!(message.contains("not applied by this agent"), "{message}");
    for node in ["n1", "n2"] {
        let agent = cluster.agent(node)?;
        wait::until(
            "the agent has the policy",
            patience(60),
            || {
                let told = agent.ask(&["problems"])?.to_string();
                Ok(told.contains("istio-waypoint").then_some(()))
            },
            String::new,
        )?;
    }
    let to = namespace.address("server", 4)?;
    let seen = namespace.traffic("client", &format!("connect {to}:8080 --send hello"))?;
    ensure!(seen["read"] == "hello\n", "{seen}");
    drop(guard);
    Ok(())
}
