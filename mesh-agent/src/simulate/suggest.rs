//! The least that lets in what was let in: one AuthorizationPolicy for the workloads that
//! have the same name-giving labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::merge::Merged;
use crate::model::{Workload, World};

/// Labels that name an application, the better one first.
const NAMING: [&str; 4] = [
    "app.kubernetes.io/name",
    "app",
    "app.kubernetes.io/instance",
    "k8s-app",
];

/// Labels that change from one pod or version of an application to the next.
const PASSING: [&str; 7] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "version",
    "app.kubernetes.io/version",
    "isthmus.dev/mesh",
];

/// A namespace and the labels that select in it.
type Selection = (String, BTreeMap<String, String>);

/// Who connects, as a policy writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sources {
    principals: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

/// Writes the policies that let in the flows that were let in and whose destination
/// `world` describes; empty if there is none.
pub(super) fn suggest(flows: &[Merged], world: &World) -> String {
    let mut seen: BTreeMap<Selection, BTreeMap<u16, Sources>> = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.allowed) {
        let Some(workload) = world.workload(&flow.destination).filter(|it| it.meshed) else {
            continue;
        };
        let ports = seen.entry(selection(workload)).or_default();
        let sources = ports.entry(flow.port).or_default();
        if let Some(identity) = &flow.source_identity {
            let principal = identity.strip_prefix("spiffe://").unwrap_or(identity);
            sources.principals.insert(principal.to_owned());
        } else {
            sources.addresses.extend(flow.source_ip);
        }
    }
    let mut names = BTreeSet::new();
    let mut out = String::new();
    for ((namespace, labels), ports) in seen {
        let policy = policy(namespace, labels, ports, &mut names);
        // Texts and lists alone: this cannot fail.
        let yaml = serde_yaml_ng::to_string(&policy).unwrap_or_default();
        out.push_str("---\n");
        out.push_str(&yaml);
    }
    out
}

fn selection(workload: &Workload) -> Selection {
    let labels = workload.labels.iter();
    let naming = NAMING
        .iter()
        .find_map(|name| workload.labels.get_key_value(*name));
    let labels: BTreeMap<String, String> = match naming {
        Some((key, value)) => BTreeMap::from([(key.clone(), value.clone())]),
        None => labels
            .filter(|(key, _)| !PASSING.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    };
    (workload.namespace.to_string(), labels)
}

fn policy(
    namespace: String,
    labels: BTreeMap<String, String>,
    ports: BTreeMap<u16, Sources>,
    names: &mut BTreeSet<(String, String)>,
) -> Policy {
    // Ports that the same clients use are one rule.
    let mut rules: BTreeMap<Sources, Vec<u16>> = BTreeMap::new();
    for (port, sources) in ports {
        rules.entry(sources).or_default().push(port);
    }
    Policy {
        api_version: "security.istio.io/v1",
        kind: "AuthorizationPolicy",
        metadata: Metadata {
            name: unused_name(&namespace, &labels, names),
            namespace,
        },
        spec: Spec {
            selector: (!labels.is_empty()).then_some(Selector {
                match_labels: labels,
            }),
            action: "ALLOW",
            rules: rules.into_iter().map(rule).collect(),
        },
    }
}

fn unused_name(
    namespace: &str,
    labels: &BTreeMap<String, String>,
    names: &mut BTreeSet<(String, String)>,
) -> String {
    let naming = labels.values().next().map_or("all", String::as_str);
    let naming: String = naming
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let base = format!("allow-{}", naming.trim_matches('-'));
    let mut name = base.clone();
    let mut number = 2;
    while !names.insert((namespace.to_owned(), name.clone())) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

fn rule((sources, ports): (Sources, Vec<u16>)) -> Rule {
    let Sources {
        principals,
        addresses,
    } = sources;
    let principals = (!principals.is_empty()).then(|| From {
        source: Source::Principals(principals.into_iter().collect()),
    });
    let addresses = (!addresses.is_empty()).then(|| From {
        source: Source::IpBlocks(addresses.iter().map(ToString::to_string).collect()),
    });
    let ports = ports.iter().map(ToString::to_string).collect();
    Rule {
        from: principals.into_iter().chain(addresses).collect(),
        to: [To {
            operation: Operation { ports },
        }],
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Serialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Serialize)]
struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    action: &'static str,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Rule {
    from: Vec<From>,
    to: [To; 1],
}

#[derive(Serialize)]
struct From {
    #[serde(with = "serde_yaml_ng::with::singleton_map")]
    source: Source,
}

/// Either: addresses of those that have an identity say nothing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Source {
    Principals(Vec<String>),
    IpBlocks(Vec<String>),
}

#[derive(Serialize)]
struct To {
    operation: Operation,
}

#[derive(Serialize)]
struct Operation {
    ports: Vec<String>,
}
