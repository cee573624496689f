//! What Istio's validation refuses is refused here, and what it accepts is accepted: the table
//! `testdata/validation.yaml`. The same file is applied to the API server by the cluster's tests.

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::{Question, built, pod};
use crate::config::{Offline, read_folder};
use crate::model::{Built, Problem, Severity, World};
use crate::observe::Reason;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "AuthorizationPolicy")]
    authorization: Vec<Case>,
    #[serde(rename = "PeerAuthentication")]
    peers: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    spec: Value,
    #[serde(default)]
    annotations: Value,
    /// The field that is at fault, if the case is refused.
    refused: Option<String>,
    /// Whether the definition in `deploy/crds` refuses it as well: for the cluster's tests.
    #[serde(default)]
    crd: bool,
    /// The reason for refusing what Istio accepts.
    stricter: Option<String>,
    /// Only evaluated, so that it refuses no connection.
    #[serde(default)]
    reports: bool,
    /// For gateways, so that it refuses no connection here.
    #[serde(default)]
    elsewhere: bool,
}

fn table() -> Table {
    let table = include_str!("../testdata/validation.yaml");
    serde_yaml_ng::from_str(table).unwrap()
}

/// The workloads, and the Service that the cases name.
fn bed() -> String {
    let web = ", app: httpbin, foo: bar, version: v1";
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {foo: bar}, ports: [{port: 80}]}
";
    pod("shop", "web", "10.1.0.1", web) + &pod("other", "web", "10.1.0.3", web) + service
}

fn object(kind: &str, annotations: &Value, spec: &Value) -> String {
    let object = serde_json::json!({
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop", "annotations": annotations},
        "spec": spec,
    });
    format!("---\n{}", serde_yaml_ng::to_string(&object).unwrap())
}

impl Case {
    fn yaml(&self, kind: &str) -> String {
        object(kind, &self.annotations, &self.spec)
    }

    /// Reads the case from a folder, where its file has no earlier version.
    fn read(&self, kind: &str) -> Offline {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bed.yaml"), bed()).unwrap();
        std::fs::write(folder.path().join("case.yaml"), self.yaml(kind)).unwrap();
        read_folder(folder.path()).unwrap()
    }

    fn check_problems(&self, kind: &str, problems: &[Problem]) {
        let name = &self.name;
        let object = format!("{kind} shop/p");
        let faults: Vec<_> = problems
            .iter()
            .filter(|it| it.severity == Severity::Error)
            .map(|it| (it.object.as_deref().unwrap_or_default(), it.field.as_str()))
            .collect();
        match &self.refused {
            None => assert!(faults.is_empty(), "{name}: {problems:#?}"),
            Some(field) => assert!(
                faults.contains(&(object.as_str(), field)),
                "{name}: {field} is not among {problems:#?}"
            ),
        }
        assert!(self.refused.is_some() || !self.crd, "{name}");
        assert!(self.refused.is_some() || self.stricter.is_none(), "{name}");
    }
}

fn reason(world: &World, from: Option<&str>, to: &str) -> Option<Reason> {
    let question = Question {
        to: to.to_owned(),
        port: 80,
        from: from.map(|from| from.parse().unwrap()),
        peer_ip: "10.1.0.9".parse().unwrap(),
        client_ip: "10.1.0.9".parse().unwrap(),
    };
    let denial = question.ask(world).outcome.err();
    denial.map(|denial| denial.reason())
}

const PEER: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/a");

#[test]
fn authorization_policies_are_refused_as_istio_refuses_them() {
    const KIND: &str = "AuthorizationPolicy";
    for case in table().authorization {
        let read = case.read(KIND).loaded;
        case.check_problems(KIND, &read.problems);
        let seen = reason(&read.world, PEER, "shop/web");
        let unusable = case.refused.is_some() && !case.reports && !case.elsewhere;
        let is_unusable = seen == Some(Reason::PolicyUnusable);
        assert_eq!(is_unusable, unusable, "{}: {seen:?}", case.name);
        assert!(!case.reports || seen.is_none(), "{}: {seen:?}", case.name);
        assert_eq!(
            reason(&read.world, PEER, "other/web"),
            None,
            "{}",
            case.name
        );
    }
}

#[test]
fn peer_authentications_are_refused_as_istio_refuses_them() {
    const KIND: &str = "PeerAuthentication";
    for case in table().peers {
        let read = case.read(KIND).loaded;
        case.check_problems(KIND, &read.problems);
        if case.refused.is_some() {
            let seen = reason(&read.world, None, "shop/web");
            assert_eq!(seen, Some(Reason::PlaintextRefused), "{}", case.name);
        }
        assert_eq!(
            reason(&read.world, None, "other/web"),
            None,
            "{}",
            case.name
        );
    }
}

/// The last good version of each lets everything in.
#[test]
fn refused_policies_leave_their_last_good_version_in_force() {
    let table = table();
    let kinds = [
        ("AuthorizationPolicy", table.authorization, "{rules: [{}]}"),
        (
            "PeerAuthentication",
            table.peers,
            "{mtls: {mode: PERMISSIVE}}",
        ),
    ];
    for (kind, cases, good) in kinds {
        let good = serde_yaml_ng::from_str(good).unwrap();
        let before = built(&(bed() + &object(kind, &Value::Null, &good)), None).world;
        for case in cases.iter().filter(|case| case.refused.is_some()) {
            // What cannot be read at all does not reach the model; its file keeps its version.
            let yaml = case.yaml(kind);
            if crate::config::read_objects(std::path::Path::new("a.yaml"), &yaml).is_err() {
                continue;
            }
            let Built {
                world, problems, ..
            } = built(&(bed() + &yaml), Some(&before));
            case.check_problems(kind, &problems);
            let from = PEER.filter(|_| kind == "AuthorizationPolicy");
            assert_eq!(reason(&world, from, "shop/web"), None, "{}", case.name);
        }
    }
}
