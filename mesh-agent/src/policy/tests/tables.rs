//! Runs the tables of `testdata` through [`inbound`](super::inbound).

use serde::Deserialize;

use super::super::{Denial, Would};
use super::{Question, built, pod};

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

/// Some policies and what they make of some connections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Where the rule is documented.
    url: String,
    /// Objects, as a user writes them.
    policies: String,
    /// `object field` of each problem that is to be reported.
    #[serde(default)]
    problems: Vec<String>,
    /// `from -> to:port[ from address][ for client]: verdict`
    requests: Vec<String>,
}

/// The workloads of all tables: `shop/web` (app web, version v1) and `shop/db` (app db),
/// `other/web` (app web).
fn workloads() -> String {
    [
        pod("shop", "web", "10.1.0.1", ", app: web, version: v1"),
        pod("shop", "db", "10.1.0.2", ", app: db"),
        pod("other", "web", "fd00::3", ", app: web"),
    ]
    .concat()
}

fn question(text: &str) -> Question {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [from, "->", to, options @ ..] = &words[..] else {
        panic!("{text:?} is not: from -> to:port");
    };
    let (to, port) = to.split_once(':').expect("a port");
    let option = |name| {
        let mut pairs = options.chunks(2);
        pairs
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].parse().unwrap())
    };
    let peer_ip = option("at").unwrap_or_else(|| "10.1.0.9".parse().unwrap());
    Question {
        to: to.to_owned(),
        port: port.parse().unwrap(),
        from: match *from {
            "plaintext" => None,
            short if !short.contains("/ns/") => {
                let (namespace, account) = short.split_once('/').unwrap();
                let uri = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
                Some(uri.parse().unwrap())
            }
            principal => Some(format!("spiffe://{principal}").parse().unwrap()),
        },
        peer_ip,
        client_ip: option("for").unwrap_or(peer_ip),
    }
}

fn verdict(denial: &Denial) -> String {
    let reason = denial.reason();
    match denial {
        Denial::Policy { policy, rule, .. } => format!("{reason} {policy} {rule}"),
        Denial::NoAllow { nearest, .. } => {
            let nearest = nearest.as_ref().expect("there is an ALLOW policy");
            let (policy, field) = (&nearest.policy, &nearest.field);
            match nearest.rule {
                Some(rule) => format!("{reason} {policy} {rule} {field}"),
                None => format!("{reason} {policy}"),
            }
        }
        Denial::PlaintextInStrict { from } => {
            format!(
                "{reason} {}",
                from.to_string().replace("PeerAuthentication ", "")
            )
        }
        _ => match denial.policy() {
            Some(policy) => format!("{reason} {policy}"),
            None => reason.to_string(),
        },
    }
}

fn run(file: &str, yaml: &str) {
    let table: Table = serde_yaml_ng::from_str(yaml).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut asked = 0;
    for case in table.cases {
        let name = format!("{file}: {}", case.name);
        assert!(case.url.starts_with("https://istio.io/"), "{name}");
        let built = built(&format!("{}---\n{}", workloads(), case.policies), None);
        let problems = built.problems.iter();
        let problems: Vec<String> = problems
            .map(|it| format!("{} {}", it.object.as_deref().unwrap_or_default(), it.field))
            .collect();
        assert_eq!(problems, case.problems, "{name}: {:#?}", built.problems);
        for line in &case.requests {
            let (request, expected) = line.split_once(" = ").expect("request = verdict");
            let decision = question(request).ask(&built.world);
            let mut said = match &decision.outcome {
                Ok(_) => "allow".to_owned(),
                Err(denial) => verdict(denial),
            };
            for policy in &decision.audited {
                said += &format!(", audit {policy}");
            }
            for trial in &decision.dry_run {
                let would = match trial.would {
                    Would::Allow => "allow",
                    Would::Deny => "deny",
                };
                let rule = trial
                    .rule
                    .map_or("none".to_owned(), |rule| rule.to_string());
                said += &format!(", trial {} {rule} {would}", trial.policy);
            }
            assert_eq!(said, expected, "{name}: {request}: {:?}", decision.outcome);
            asked += 1;
        }
    }
    assert!(asked > 0, "{file} asks nothing");
}

#[test]
fn actions_and_their_order() {
    run("actions.yaml", include_str!("../testdata/actions.yaml"));
}

#[test]
fn what_a_rule_matches() {
    run("rules.yaml", include_str!("../testdata/rules.yaml"));
}

#[test]
fn whom_a_policy_is_for() {
    run("scope.yaml", include_str!("../testdata/scope.yaml"));
}

#[test]
fn modes_and_their_precedence() {
    run("mtls.yaml", include_str!("../testdata/mtls.yaml"));
}

#[test]
fn what_needs_http() {
    run("http.yaml", include_str!("../testdata/http.yaml"));
}

#[test]
fn what_cannot_be_used() {
    run("unusable.yaml", include_str!("../testdata/unusable.yaml"));
}

#[test]
fn trust_domains_of_principals_and_sources() {
    let table = include_str!("../testdata/trust_domains.yaml");
    run("trust_domains.yaml", table);
}
