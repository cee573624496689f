//! What holds whatever the policies are. Policies are made as text, so the reader and
//! the compiler are part of what is tested.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::rule::MissAt;
use super::super::{Action, Denial, OutboundPermit, Policies, Policy, Target, outbound};
use super::{Question, built, pod};
use crate::config::read_objects;
use crate::model::{Workload, World, build};

/// One policy: action, dry run, selection, and the text of its rules.
#[derive(Clone, Debug)]
struct Written {
    action: &'static str,
    dry_run: bool,
    namespace: &'static str,
    selection: &'static str,
    rules: Vec<String>,
}

impl Written {
    fn yaml(&self, number: usize) -> String {
        let Self {
            action,
            dry_run,
            namespace,
            selection,
            rules,
        } = self;
        let rules = rules.join(", ");
        format!(
            "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p{number}, namespace: {namespace}, annotations: {{istio.io/dry-run: \"{dry_run}\"}}}}
spec: {{action: {action}, {selection}rules: [{rules}]}}
"
        )
    }
}

/// `field: [values]`, now and then with a value that cannot be used.
fn field() -> impl Strategy<Value = (bool, String)> {
    let principal = "['cluster.local/ns/shop/sa/a', 'cluster.local/ns/x/*', '*/sa/b']";
    select(vec![
        (true, format!("principals: {principal}")),
        (
            true,
            "principals: ['cluster.local/ns/shop/sa/a']".to_owned(),
        ),
        (true, "principals: ['*']".to_owned()),
        (
            true,
            "notPrincipals: ['cluster.local/ns/shop/sa/b']".to_owned(),
        ),
        (true, "namespaces: [shop]".to_owned()),
        (true, "namespaces: [x, 'sh*']".to_owned()),
        (true, "notNamespaces: [x]".to_owned()),
        (true, "ipBlocks: [10.1.0.0/30]".to_owned()),
        (true, "notRemoteIpBlocks: [10.1.0.1]".to_owned()),
        (true, "requestPrincipals: ['*']".to_owned()),
        (false, "ports: ['80']".to_owned()),
        (false, "notPorts: ['81']".to_owned()),
        (false, "methods: [GET]".to_owned()),
    ])
}

fn rule() -> impl Strategy<Value = String> {
    let accounts = select(vec!["a", "b", "x/a"]);
    prop_oneof![
        1 => Just("{}".to_owned()),
        2 => accounts.prop_map(|it| format!("{{from: [{{source: {{serviceAccounts: [{it}]}}}}]}}")),
        6 => vec(vec(field(), 1..3), 1..3).prop_map(|clauses| {
            let of = |source: bool, name: &str| {
                let lists = clauses.iter().map(|clause| {
                    let mut fields: Vec<&str> = clause
                        .iter()
                        .filter(|(is_source, _)| *is_source == source)
                        .map(|(_, text)| &**text)
                        .collect();
                    fields.sort_by_key(|text| text.split(':').next().unwrap().to_owned());
                    fields.dedup_by_key(|text| text.split(':').next().unwrap().to_owned());
                    fields.join(", ")
                });
                let lists = lists.filter(|fields| !fields.is_empty());
                let lists: Vec<String> = lists.map(|it| format!("{{{name}: {{{it}}}}}")).collect();
                lists.join(", ")
            };
            let (from, to) = (of(true, "source"), of(false, "operation"));
            let part = |name, list: String| match &*list {
                "" => String::new(),
                list => format!("{name}: [{list}]"),
            };
            let parts = [part("from", from), part("to", to)];
            let parts = parts.iter().filter(|it| !it.is_empty());
            let parts: Vec<&str> = parts.map(String::as_str).collect();
            format!("{{{}}}", parts.join(", "))
        }),
        1 => Just("{when: [{key: source.principal, notValues: ['*/sa/a']}]}".to_owned()),
        1 => Just("{when: [{key: destination.ip, values: [10.1.0.1]}]}".to_owned()),
        1 => Just("{from: [{source: {ipBlocks: [nonsense]}}]}".to_owned()),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    let selections = vec![
        "",
        "",
        "selector: {matchLabels: {app: web}}, ",
        "selector: {matchLabels: {app: db}}, ",
        "targetRefs: [{kind: Service, name: web}], ",
    ];
    let actions = select(vec!["ALLOW", "ALLOW", "DENY", "AUDIT"]);
    let namespaces = select(vec!["shop", "shop", "other", "istio-system"]);
    (
        actions,
        prop::bool::weighted(0.2),
        namespaces,
        select(selections),
        vec(rule(), 0..3),
    )
        .prop_map(|(action, dry_run, namespace, selection, rules)| Written {
            action,
            dry_run,
            namespace,
            selection,
            rules,
        })
}

fn question() -> impl Strategy<Value = Question> {
    let identities = select(vec![
        None,
        Some("shop/sa/a"),
        Some("shop/sa/b"),
        Some("x/sa/a"),
        Some("other/sa/c"),
    ]);
    let to = select(vec!["shop/web", "shop/db"]);
    (identities, to, 80..82u16, 0..6u8, 0..6u8).prop_map(|(identity, to, port, peer, client)| {
        let identity = identity.map(|it| format!("spiffe://cluster.local/ns/{it}"));
        Question {
            to: to.to_owned(),
            port,
            from: identity.map(|it| it.parse().unwrap()),
            peer_ip: [10, 1, 0, peer].into(),
            client_ip: [10, 1, 0, client].into(),
        }
    })
}

fn world(policies: &[Written]) -> World {
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
";
    let pods = [
        pod("shop", "web", "10.1.0.1", ", app: web"),
        pod("shop", "db", "10.1.0.2", ", app: db"),
    ];
    let policies = policies.iter().enumerate();
    let policies: String = policies.map(|(i, policy)| policy.yaml(i)).collect();
    built(&(pods.concat() + service + &policies), None).world
}

fn allows(world: &World, question: &Question) -> bool {
    question.ask(world).outcome.is_ok()
}

/// The policies in force for a question, found without any index.
fn in_force<'a>(
    policies: &'a Policies,
    workload: &'a Workload,
    port: u16,
) -> impl Iterator<Item = &'a Policy> {
    let known = policies.known.authorization.values();
    let selecting = known.filter(move |good| match &good.scope {
        super::super::Scope::Workloads(workloads) => {
            let ports = workloads.get(&workload.uid);
            ports.is_some_and(|ports| ports.as_ref().is_none_or(|it| it.contains(&port)))
        }
        scope => scope.selects(workload),
    });
    selecting.map(|good| &*good.policy).filter(|it| !it.dry_run)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adding_a_deny_never_allows_more(
        before in vec(written(), 0..4), rules in vec(rule(), 0..3), asked in question()
    ) {
        let mut after = before.clone();
        after.push(Written { action: "DENY", dry_run: false, namespace: "shop", selection: "", rules });
        prop_assert!(allows(&world(&before), &asked) || !allows(&world(&after), &asked));
    }

    #[test]
    fn another_allow_where_there_is_one_never_denies_more(
        mut before in vec(written(), 0..4), first in vec(rule(), 0..3), asked in question(),
        second in vec(rule().prop_filter("usable", |it| !it.contains("nonsense")), 0..3)
    ) {
        let allow = |rules| Written {
            action: "ALLOW", dry_run: false, namespace: "shop", selection: "", rules,
        };
        before.push(allow(first));
        let mut after = before.clone();
        after.push(allow(second));
        prop_assert!(!allows(&world(&before), &asked) || allows(&world(&after), &asked));
    }

    #[test]
    fn both_ends_come_to_the_same_verdict(policies in vec(written(), 0..5), asked in question()) {
        let world = world(&policies);
        let destination = world.workload(&asked.to).unwrap();
        let target = Target::Meshed(asked.request(destination));
        let source = outbound(world.policies(), world.mesh(), &target, true);
        let there = asked.ask(&world);
        match (source.outcome, there.outcome) {
            (Ok(OutboundPermit::Tunnel(permit)), Ok(_)) => {
                prop_assert_eq!(permit.expected(), &destination.identity);
            }
            (Err(source), Err(there)) => prop_assert_eq!(source, there),
            other => prop_assert!(false, "{other:?}"),
        }
        prop_assert_eq!(source.audited, there.audited);
        prop_assert_eq!(source.dry_run, there.dry_run);
    }

    #[test]
    fn a_policy_on_trial_changes_no_verdict(
        before in vec(written(), 0..4), mut trial in written(), asked in question()
    ) {
        trial.dry_run = true;
        let mut after = before.clone();
        after.push(trial);
        let (before, after) = (asked.ask(&world(&before)), asked.ask(&world(&after)));
        prop_assert_eq!(before.outcome.err(), after.outcome.err());
        prop_assert_eq!(before.audited, after.audited);
    }

    /// Against an evaluation that knows no buckets and no index, rule by rule; and
    /// what is said of a denial is true of the rule that is named.
    #[test]
    fn the_explanation_is_what_was_enforced(
        policies in vec(written(), 0..8), asked in question()
    ) {
        let world = world(&policies);
        let destination = world.workload(&asked.to).unwrap();
        let request = asked.request(destination);
        let seen = request.seen();
        let of = |action: Action| {
            let all = in_force(world.policies(), destination, asked.port);
            let all: Vec<&Policy> = all.filter(|policy| policy.action == action).collect();
            all
        };
        let matches = |it: &&Policy| it.rules.iter().any(|rule| rule.check(&seen).is_ok());
        let (allow, deny) = (of(Action::Allow), of(Action::Deny));
        let refused = deny.iter().any(matches);
        let let_in = allow.is_empty() || allow.iter().any(matches);
        let decision = asked.ask(&world);
        match decision.outcome {
            Ok(_) => prop_assert!(!refused && let_in),
            Err(Denial::PolicyUnusable { .. }) => {}
            Err(Denial::Policy { policy, rule, .. }) => {
                prop_assert!(refused);
                let named = deny.iter().find(|it| it.name == policy).unwrap();
                prop_assert!(named.rules[rule].check(&seen).is_ok());
            }
            Err(Denial::NoAllow { nearest, .. }) => {
                prop_assert!(!refused && !let_in);
                let nearest = nearest.unwrap();
                let named = allow.iter().find(|it| it.name == nearest.policy).unwrap();
                match nearest.rule {
                    None => prop_assert!(named.rules.is_empty()),
                    Some(rule) => {
                        let miss = named.rules[rule].check(&seen).unwrap_err();
                        prop_assert_eq!(miss.at.field(), nearest.field);
                        let unanswerable = matches!(miss.at, MissAt::Unanswerable(_));
                        prop_assert_eq!(named.rules[rule].unanswerable.is_some() && unanswerable, unanswerable);
                        let further = allow.iter().flat_map(|it| &it.rules);
                        let mut further = further.filter_map(|it| it.check(&seen).err());
                        prop_assert!(further.all(|it| it.depth <= miss.depth));
                    }
                }
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        let audited = of(Action::Audit).into_iter().filter(|it| matches(it));
        let mut audited: Vec<_> = audited.map(|it| it.name.clone()).collect();
        let mut said = decision.audited;
        audited.sort();
        said.sort();
        prop_assert_eq!(said, audited);
    }

    #[test]
    fn no_text_makes_it_panic(
        spec in "[-a-zA-Z0-9:{}\\[\\]\"',.*/ \n]{0,60}", policy in written(), at in 0..400usize,
        other in any::<char>(), asked in question()
    ) {
        let mut text = policy.yaml(0);
        let place = text.char_indices().map(|(i, _)| i).nth(at).unwrap_or(text.len());
        text.insert(place, other);
        let template = Written { rules: vec![], ..policy };
        let spec = template.yaml(1).replace("rules: []", &spec);
        for text in [text, spec] {
            let Ok(objects) = read_objects("p.yaml".as_ref(), &text) else { continue };
            let pods = pod("shop", "web", "10.1.0.1", ", app: web") + &pod("shop", "db", "10.1.0.2", "");
            let pods = read_objects("w.yaml".as_ref(), &pods).unwrap();
            let world = build([&pods, &objects], "node-a", None).world;
            let _ = asked.ask(&world).outcome;
        }
    }
}
