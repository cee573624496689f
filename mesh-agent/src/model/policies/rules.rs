//! Rules of an AuthorizationPolicy. What HTTP alone can answer is settled here, as in
//! Istio: an ALLOW rule with it never matches, a DENY rule goes on without it.
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>
//! ("For a DENY rule, missing attributes are treated as matches").

use super::super::schema::{Condition, Operation, PolicyRule, Source};
use super::super::settings::MeshSettings;
use super::conditions::{self, Key};
use super::{Report, paths, trust_domains, values};
use crate::policy::{Action, Clause, Group, Part, Rule, Test, Values};

/// What a rule is read by, beside its own text.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The policy's.
    pub(super) action: Action,
    /// The policy's.
    pub(super) namespace: &'a str,
    pub(super) mesh: &'a MeshSettings,
}

/// Reads one rule. Faults are reported by their field.
pub(super) fn rule(
    rule: &PolicyRule,
    number: usize,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Rule {
    let at = format!("spec.rules[{number}]");
    let mut reader = Reader {
        scope,
        report,
        at,
        http: Vec::new(),
    };
    let mut groups = Vec::new();
    if let Some(from) = &rule.from {
        reader.not_empty(from, "from");
        let sources = from.iter().enumerate();
        let any = sources.map(|(place, it)| reader.source(place, &it.source));
        groups.extend(group(Part::From, any.collect()));
    }
    if let Some(to) = &rule.to {
        reader.not_empty(to, "to");
        let operations = to.iter().enumerate();
        let any = operations.map(|(place, it)| reader.operation(place, &it.operation));
        groups.extend(group(Part::To, any.collect()));
    }
    for (place, condition) in rule.when.iter().enumerate() {
        let all = reader.condition(place, condition);
        groups.extend(group(Part::When, vec![Clause { place, all }]));
    }
    let unanswerable = reader.say_http(&groups);
    Rule {
        groups: groups.into(),
        unanswerable,
    }
}

fn group(part: Part, any: Vec<Clause>) -> Option<Group> {
    let any = any.into_boxed_slice();
    (!any.is_empty()).then_some(Group { part, any })
}

struct Reader<'a, 'r> {
    scope: Scope<'a>,
    report: &'a mut Report<'r>,
    /// The rule.
    at: String,
    /// Fields that need HTTP.
    http: Vec<String>,
}

impl Reader<'_, '_> {
    fn not_empty<T>(&mut self, list: &[T], field: &str) {
        if list.is_empty() {
            let at = format!("{}.{field}", self.at);
            let message = "it is there and empty, which says neither all nor none";
            let cure = "remove it for all, or write what is meant";
            self.report.fault(at, message, cure);
        }
    }

    fn source(&mut self, place: usize, source: &Source) -> Clause {
        let at = format!("{}.from[{place}].source", self.at);
        let Scope { namespace, .. } = self.scope;
        let mut list = List::new(self, at);
        let it = source;
        list.principals(false, "principals", &it.principals);
        list.principals(true, "notPrincipals", &it.not_principals);
        list.test(false, "namespaces", &it.namespaces, values::namespaces);
        list.test(
            true,
            "notNamespaces",
            &it.not_namespaces,
            values::namespaces,
        );
        let (domains, not_domains) = (&it.trust_domains, &it.not_trust_domains);
        list.test(false, "trustDomains", domains, values::trust_domains);
        list.test(true, "notTrustDomains", not_domains, values::trust_domains);
        let accounts = |texts: &[String], at: &str, report: &mut Report<'_>| {
            values::accounts(texts, namespace, at, report)
        };
        list.test(false, "serviceAccounts", &it.service_accounts, accounts);
        list.test(
            true,
            "notServiceAccounts",
            &it.not_service_accounts,
            accounts,
        );
        list.test(false, "ipBlocks", &it.ip_blocks, values::peer_ips);
        list.test(true, "notIpBlocks", &it.not_ip_blocks, values::peer_ips);
        list.test(
            false,
            "remoteIpBlocks",
            &it.remote_ip_blocks,
            values::client_ips,
        );
        list.test(
            true,
            "notRemoteIpBlocks",
            &it.not_remote_ip_blocks,
            values::client_ips,
        );
        list.http("requestPrincipals", &it.request_principals);
        list.http("notRequestPrincipals", &it.not_request_principals);
        let accounts = it.service_accounts.len() + it.not_service_accounts.len();
        let identities = [
            &it.principals,
            &it.not_principals,
            &it.namespaces,
            &it.not_namespaces,
        ];
        if accounts > 0 && identities.iter().any(|texts| !texts.is_empty()) {
            let message = "serviceAccounts do not go with principals or namespaces";
            list.fault("serviceAccounts", message, "write two sources");
        }
        list.clause(place)
    }

    fn operation(&mut self, place: usize, operation: &Operation) -> Clause {
        let at = format!("{}.to[{place}].operation", self.at);
        let mut list = List::new(self, at);
        let it = operation;
        list.test(false, "ports", &it.ports, values::ports);
        list.test(true, "notPorts", &it.not_ports, values::ports);
        for (field, texts) in [("paths", &it.paths), ("notPaths", &it.not_paths)] {
            for (path, fault) in texts.iter().filter_map(|it| Some((it, paths::fault(it)?))) {
                let message = format!("{path:?} is not a path: {fault}");
                list.fault(field, message, "correct it");
            }
        }
        for (field, texts) in [
            ("hosts", &it.hosts),
            ("notHosts", &it.not_hosts),
            ("methods", &it.methods),
            ("notMethods", &it.not_methods),
            ("paths", &it.paths),
            ("notPaths", &it.not_paths),
        ] {
            list.http(field, texts);
        }
        list.clause(place)
    }

    /// Keys: <https://istio.io/latest/docs/reference/config/security/conditions/>
    fn condition(&mut self, place: usize, condition: &Condition) -> Box<[Test]> {
        let Condition {
            key,
            values,
            not_values,
        } = condition;
        let at = format!("{}.when[{place}]", self.at);
        if values.is_empty() && not_values.is_empty() {
            let message = "it has neither values nor notValues";
            self.report.fault(&*at, message, "write one of them");
        }
        let Scope { namespace, .. } = self.scope;
        let mut list = List::new(self, at);
        for (negated, field, texts) in [(false, "values", values), (true, "notValues", not_values)]
        {
            match key.as_str() {
                "source.principal" => list.principals(negated, field, texts),
                "source.trustDomain" => list.test(negated, field, texts, values::trust_domains),
                "source.namespace" => list.test(negated, field, texts, values::namespaces),
                "source.serviceAccount" => {
                    list.test(negated, field, texts, |texts, at, report| {
                        values::accounts(texts, namespace, at, report)
                    });
                }
                "source.ip" => list.test(negated, field, texts, values::peer_ips),
                "remote.ip" => list.test(negated, field, texts, values::client_ips),
                "destination.ip" => list.test(negated, field, texts, values::destination_ips),
                "destination.port" => list.test(negated, field, texts, values::ports),
                key if conditions::kind(key) == Key::NeedsHttp => {
                    list.no_empty(field, texts);
                    list.need_http(&format!("{field} ({key})"), texts);
                }
                key if conditions::kind(key) == Key::LacksName => {
                    let message = format!("{key:?} lacks a name in brackets");
                    list.fault("key", message, "write it as in request.headers[User-Agent]");
                    break;
                }
                _ => {
                    let message = format!("{key:?} is no attribute that Istio knows");
                    list.fault("key", message, "write one of Istio's conditions");
                    break;
                }
            }
        }
        list.tests.into()
    }

    /// Says what HTTP would have to answer, and what becomes of the rule. Gives back
    /// the field for which it never matches.
    fn say_http(&mut self, groups: &[Group]) -> Option<Box<str>> {
        let field = self.http.first()?.clone();
        let message = match self.scope.action {
            Action::Deny => {
                let asks = |group: &Group| group.any.iter().all(|clause| !clause.all.is_empty());
                if groups.iter().any(asks) {
                    "it needs HTTP, which is not read here: the rule denies on what remains of it, which is more than was asked"
                } else {
                    "it needs HTTP, which is not read here, and nothing else is asked: the rule denies every connection"
                }
            }
            _ => "it needs HTTP, which is not read here: the rule never matches",
        };
        for field in &self.http {
            let cure = "write rules of identities, namespaces, addresses and ports";
            self.report.warning(field.as_str(), message, cure);
        }
        (self.scope.action != Action::Deny).then(|| field.into())
    }
}

/// The tests of one source, operation or condition.
struct List<'a, 'b, 'r> {
    reader: &'a mut Reader<'b, 'r>,
    at: String,
    tests: Vec<Test>,
    /// Whether it had any field at all.
    any: bool,
}

impl<'a, 'b, 'r> List<'a, 'b, 'r> {
    fn new(reader: &'a mut Reader<'b, 'r>, at: String) -> Self {
        Self {
            reader,
            at,
            tests: Vec::new(),
            any: false,
        }
    }

    fn test(
        &mut self,
        negated: bool,
        field: &str,
        texts: &[String],
        read: impl Fn(&[String], &str, &mut Report<'_>) -> Values,
    ) {
        if texts.is_empty() {
            return;
        }
        self.any = true;
        let at = format!("{}.{field}", self.at);
        let values = read(texts, &at, self.reader.report);
        self.tests.push(Test { negated, values });
    }

    fn principals(&mut self, negated: bool, field: &str, texts: &[String]) {
        let Scope { action, mesh, .. } = self.reader.scope;
        self.test(negated, field, texts, |texts, at, report| {
            let expand = |written: &[_]| trust_domains::expand(written, mesh, action, negated);
            values::principals(texts, expand, at, report)
        });
    }

    fn http(&mut self, field: &str, texts: &[String]) {
        self.no_empty(field, texts);
        self.need_http(field, texts);
    }

    fn no_empty(&mut self, field: &str, texts: &[String]) {
        let at = format!("{}.{field}", self.at);
        values::no_empty(texts, &at, self.reader.report);
    }

    fn need_http(&mut self, field: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.any = true;
            self.reader.http.push(format!("{}.{field}", self.at));
        }
    }

    fn fault(&mut self, field: &str, message: impl Into<String>, cure: &str) {
        let at = format!("{}.{field}", self.at);
        self.reader.report.fault(at, message, cure);
    }

    fn clause(self, place: usize) -> Clause {
        if !self.any {
            let message = "it is there and empty, which says neither all nor none";
            let cure = "write what is meant, or remove it for all";
            self.reader.report.fault(&*self.at, message, cure);
        }
        Clause {
            place,
            all: self.tests.into(),
        }
    }
}
