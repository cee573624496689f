//! Exit codes of `policy lint`, files of flows, and what is printed.

use std::fs;

use super::*;
use crate::observe::{Flow, Reporter};
use crate::simulate::{Change, Simulation};

const EMPTY_DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {action: DENY}
";
const HTTP: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
";

fn lint(text: &str, strict: bool) -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), text).unwrap();
    let args = LintArgs {
        dir: dir.path().to_owned(),
        strict,
        output: Format::Json,
    };
    args.run().unwrap()
}

#[test]
fn errors_fail_and_warnings_fail_when_strict() {
    for (text, strict, fails) in [
        ("", true, false),
        (HTTP, false, false),
        (HTTP, true, true),
        (EMPTY_DENY, false, true),
        ("not: [yaml", false, true),
    ] {
        let expected = if fails {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
        assert_eq!(lint(text, strict), expected, "{text} {strict}");
    }
}

#[test]
fn a_finding_is_one_line_with_its_cure() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), EMPTY_DENY).unwrap();
    let found = crate::lint::lint(&read_folder(dir.path()).unwrap());
    let shown = lint::render(&found);
    let shown = shown.replace(&dir.path().display().to_string(), "DIR");
    assert_eq!(
        shown,
        "error: DIR/p.yaml: AuthorizationPolicy shop/p: spec.rules: a DENY policy without rules \
         matches nothing, and so denies nothing; add a rule; \"- {}\" denies everything; until then \
         its last good version is in force, or without one the workloads that it may select refuse \
         everything\n\
         \n1 error, 0 warnings\n"
    );
    let json: serde_json::Value = serde_json::from_slice(&lint::json(&found).unwrap()).unwrap();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["field"], "spec.rules");
    assert_eq!(lint::render(&[]), "nothing is wrong\n");
}

#[test]
fn a_simulation_is_told_in_full() {
    let change = Change {
        source_identity: Some("spiffe://cluster.local/ns/shop/sa/job".into()),
        source_ip: None,
        destination: "shop/db".into(),
        port: 80,
        count: 3,
        reason: Some("POLICY_NO_ALLOW".into()),
        detail: "no ALLOW policy matched".into(),
    };
    let simulation = Simulation {
        judged: 4,
        newly_denied: vec![change],
        never_matched: vec!["shop/db spec.rules[1]".into()],
        suggestion: "---\nkind: X\n".into(),
        ..Simulation::default()
    };
    assert_eq!(
        simulate::render(&[], &simulation),
        "\
4 flows were judged

newly denied:
SOURCE       DESTINATION  PORT  COUNT  REASON
shop/sa/job  shop/db        80      3  POLICY_NO_ALLOW
  shop/sa/job -> shop/db:80: no ALLOW policy matched

newly allowed: none

rules that matched no flow:
  shop/db spec.rules[1]

the least that lets in what was let in:

---
kind: X
"
    );
}

#[tokio::test]
async fn a_file_that_holds_no_flows_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.json");
    fs::write(&path, "{}").unwrap();
    let args = |flows| SimulateArgs {
        dir: dir.path().to_owned(),
        flows: vec![flows],
        output: Format::Json,
        run_dir: dir.path().to_owned(),
        remote: RemoteArgs::default(),
    };
    let error = args(path).run().await.unwrap_err().to_string();
    assert!(error.contains("flows.json holds no flows"), "{error}");
    let error = args(dir.path().join("none")).run().await.unwrap_err();
    assert!(
        error.to_string().contains("cannot read the flows in"),
        "{error}"
    );
}

#[test]
fn flows_as_a_table() {
    let flow = |identity: Option<&str>, reason: Option<&str>| Flow {
        reporter: Reporter::Destination,
        source_identity: identity.map(str::to_owned),
        source_ip: identity.is_none().then(|| [203, 0, 113, 9].into()),
        destination: "shop/db".into(),
        port: 5432,
        allowed: reason.is_none(),
        reason: reason.map(str::to_owned),
        count: 12,
        last_seen_s: 1,
    };
    let web = Some("spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(
        crate::cli::flows::render(&[flow(web, None), flow(None, Some("PLAINTEXT_REFUSED"))]),
        "\
SOURCE                     DESTINATION  PORT  VERDICT            COUNT  SEEN BY
shop/sa/web                shop/db      5432  allowed               12  destination
203.0.113.9 (no identity)  shop/db      5432  PLAINTEXT_REFUSED     12  destination
"
    );
}
