//! Rules that no connection can match, as far as that can be proved: fields that have
//! nobody in common, or who is nobody. What cannot be proved is not claimed.

use std::net::{IpAddr, Ipv4Addr};

use super::request::Seen;
use super::rule::{Group, MissAt, Part, Rule, Test, Values};
use super::values::{IpBlock, Pattern};
use crate::identity::{SpiffeId, TrustDomain};
use crate::model::MeshSettings;

/// Combinations of clauses that are looked at; a rule with more is not judged.
const MAX_COMBINATIONS: usize = 1024;

/// A test and its place in the written rule.
#[derive(Clone, Copy)]
struct Placed<'a> {
    part: Part,
    place: usize,
    test: &'a Test,
}

impl Rule {
    /// Why the rule matches no connection whatever, if that can be proved without HTTP.
    pub(crate) fn contradiction(&self, mesh: &MeshSettings) -> Option<String> {
        let mut combinations = self.groups.iter().map(|group| group.any.len().max(1));
        let combinations = combinations.try_fold(1_usize, |all, of| all.checked_mul(of));
        if combinations.is_none_or(|count| count > MAX_COMBINATIONS) {
            return None;
        }
        every_choice_fails(&self.groups, &mut Vec::new(), mesh)
    }

    /// Whether the rule matches every connection.
    pub(crate) fn is_everything(&self) -> bool {
        let asks_nothing = |group: &Group| group.any.iter().any(|clause| clause.all.is_empty());
        self.unanswerable.is_none() && self.groups.iter().all(asks_nothing)
    }
}

/// The first contradiction, if every choice of one clause a group has one.
fn every_choice_fails<'a>(
    groups: &'a [Group],
    chosen: &mut Vec<Placed<'a>>,
    mesh: &MeshSettings,
) -> Option<String> {
    let Some((group, others)) = groups.split_first() else {
        return contradiction(chosen, mesh);
    };
    let mut first = None;
    for clause in &group.any {
        let before = chosen.len();
        chosen.extend(clause.all.iter().map(|test| Placed {
            part: group.part,
            place: clause.place,
            test,
        }));
        let why = every_choice_fails(others, chosen, mesh);
        chosen.truncate(before);
        first.get_or_insert(why?);
    }
    first
}

fn contradiction(tests: &[Placed<'_>], mesh: &MeshSettings) -> Option<String> {
    of_identities(tests, mesh)
        .or_else(|| of_ports(tests))
        .or_else(|| of_blocks(tests, "source address", peer_blocks))
        .or_else(|| of_blocks(tests, "client address", client_blocks))
        .or_else(|| of_blocks(tests, "destination address", destination_blocks))
}

fn of_identities(tests: &[Placed<'_>], mesh: &MeshSettings) -> Option<String> {
    let tests: Vec<_> = tests
        .iter()
        .filter(|it| it.test.values.is_of_identity())
        .copied()
        .collect();
    let asked = || tests.iter().filter(|it| !it.test.negated);
    if let Some(it) = asked().find(|it| is_of_untrusted_domains(it.test, mesh)) {
        return Some(format!(
            "nothing vouches for the trust domain in {}",
            field(it)
        ));
    }
    if let Some(why) = of_trust_domains(&tests, mesh) {
        return Some(why);
    }
    let exact = asked().find_map(|it| exact_principals(it.test).map(|texts| (it, texts)));
    let candidates = if let Some((it, texts)) = exact {
        let parsed = texts
            .iter()
            .filter_map(|text| mesh.id_forms.parse(&format!("spiffe://{text}")).ok());
        let identities: Vec<SpiffeId> = parsed.collect();
        if identities.is_empty() {
            let field = field(it);
            return Some(format!(
                "{field}: none of {} is an identity, which is <trust domain>/ns/<namespace>/sa/<account>",
                written(it.test)
            ));
        }
        identities
    } else if let Some(accounts) = asked().find_map(|it| accounts(it.test, mesh)) {
        accounts
    } else {
        return of_namespaces(&tests);
    };
    let trusted: Vec<_> = candidates
        .iter()
        .filter(|id| mesh.trusts(id.trust_domain()))
        .collect();
    if trusted.is_empty() {
        let names = fields(&tests);
        return Some(format!("nothing vouches for the trust domain in {names}"));
    }
    let all_match = |id: &&&SpiffeId| tests.iter().all(|it| it.test.matches(&seen(Some(id), 0)));
    match trusted.iter().find(all_match) {
        Some(_) => None,
        None => Some(format!("no identity satisfies {} together", fields(&tests))),
    }
}

fn exact_principals(test: &Test) -> Option<Vec<&str>> {
    let Values::Principals(principals) = &test.values else {
        return None;
    };
    principals.patterns().iter().map(exact).collect()
}

fn written(test: &Test) -> String {
    let Values::Principals(principals) = &test.values else {
        return String::new();
    };
    let texts: Vec<_> = principals
        .written()
        .iter()
        .map(Pattern::to_string)
        .collect();
    texts.join(", ")
}

/// Whether each of the principals begins with a whole trust domain, and no peer of it can
/// connect.
fn is_of_untrusted_domains(test: &Test, mesh: &MeshSettings) -> bool {
    let Values::Principals(principals) = &test.values else {
        return false;
    };
    let is_untrusted = |pattern: &Pattern| match pattern {
        Pattern::Exact(text) => {
            let id = mesh.id_forms.parse(&format!("spiffe://{text}"));
            id.is_ok_and(|id| !mesh.trusts(id.trust_domain()))
        }
        Pattern::Prefix(text) => text
            .split_once('/')
            .and_then(|(domain, _)| TrustDomain::new(domain).ok())
            .is_some_and(|domain| !mesh.trusts(&domain)),
        Pattern::Suffix(_) | Pattern::Present => false,
    };
    principals.patterns().iter().all(is_untrusted)
}

/// Where trust domains are listed, a trusted one must pass all that is asked of them.
fn of_trust_domains(tests: &[Placed<'_>], mesh: &MeshSettings) -> Option<String> {
    let tests: Vec<_> = tests
        .iter()
        .filter(|it| matches!(it.test.values, Values::TrustDomains(_)))
        .copied()
        .collect();
    if tests.iter().all(|it| it.test.negated) {
        return None;
    }
    let passes = |domain: &TrustDomain| {
        let id = SpiffeId::new(domain.clone(), "any", "any");
        let matches = |id: SpiffeId| tests.iter().all(|it| it.test.matches(&seen(Some(&id), 0)));
        id.is_ok_and(matches)
    };
    if mesh.trusted_domains().any(passes) {
        return None;
    }
    Some(format!(
        "no trust domain for which something vouches satisfies {}",
        fields(&tests)
    ))
}

fn accounts(test: &Test, mesh: &MeshSettings) -> Option<Vec<SpiffeId>> {
    let Values::Accounts(accounts) = &test.values else {
        return None;
    };
    let template = |domain| mesh.id_forms.template(domain);
    let mut templates = mesh.trusted_domains().filter_map(template);
    if templates.any(|it| it.has_pod_name()) {
        // An account has any number of identities then.
        return None;
    }
    let of = |domain: &&TrustDomain| {
        let domain = (*domain).clone();
        let id = move |account: &super::values::Account| {
            let (namespace, name) = ((&*account.namespace).into(), (&*account.name).into());
            let id = mesh.id_forms.identity(domain.clone(), namespace, name, "");
            id.ok()
        };
        accounts.iter().filter_map(id).collect::<Vec<_>>()
    };
    let domains: Vec<&TrustDomain> = mesh.trusted_domains().collect();
    Some(domains.iter().flat_map(of).collect())
}

fn exact_namespaces(test: &Test) -> Option<Vec<&str>> {
    let Values::Namespaces(patterns) = &test.values else {
        return None;
    };
    patterns.iter().map(exact).collect()
}

/// Where namespaces are listed, one of them must pass what else is asked of namespaces.
fn of_namespaces(tests: &[Placed<'_>]) -> Option<String> {
    let tests: Vec<_> = tests
        .iter()
        .filter(|it| matches!(it.test.values, Values::Namespaces(_)))
        .copied()
        .collect();
    let listed = tests
        .iter()
        .filter(|it| !it.test.negated)
        .find_map(|it| exact_namespaces(it.test))?;
    let passes = |name: &&str| {
        tests.iter().all(|it| match &it.test.values {
            Values::Namespaces(patterns) => {
                patterns.iter().any(|it| it.matches(&[name])) != it.test.negated
            }
            _ => true,
        })
    };
    match listed.iter().any(passes) {
        true => None,
        false => Some(format!(
            "no namespace satisfies {} together",
            fields(&tests)
        )),
    }
}

fn of_ports(tests: &[Placed<'_>]) -> Option<String> {
    let ports = |it: &&Placed<'_>| matches!(it.test.values, Values::Ports(_));
    let tests: Vec<_> = tests.iter().filter(ports).copied().collect();
    let listed = tests.iter().find_map(|it| match &it.test.values {
        Values::Ports(ports) if !it.test.negated => Some(ports),
        _ => None,
    })?;
    let passes = |port: &u16| tests.iter().all(|it| it.test.matches(&seen(None, *port)));
    match listed.iter().any(passes) {
        true => None,
        false => Some(format!("no port satisfies {} together", fields(&tests))),
    }
}

/// Two lists of blocks without an address in common, or a list that a `not…` covers.
fn of_blocks(
    tests: &[Placed<'_>],
    what: &str,
    blocks: fn(&Values) -> Option<&[IpBlock]>,
) -> Option<String> {
    let tests: Vec<_> = tests
        .iter()
        .filter_map(|it| blocks(&it.test.values).map(|blocks| (*it, blocks)))
        .collect();
    let (_, listed) = tests.iter().find(|(it, _)| !it.test.negated)?;
    let passes = |block: &IpBlock| {
        tests.iter().all(|(it, others)| match it.test.negated {
            true => !others.iter().any(|other| other.covers(block)),
            false => others
                .iter()
                .any(|other| other.covers(block) || block.covers(other)),
        })
    };
    if listed.iter().any(passes) {
        return None;
    }
    let placed: Vec<_> = tests.iter().map(|(it, _)| *it).collect();
    Some(format!("no {what} satisfies {} together", fields(&placed)))
}

fn peer_blocks(values: &Values) -> Option<&[IpBlock]> {
    match values {
        Values::PeerIps(blocks) => Some(blocks),
        _ => None,
    }
}

fn client_blocks(values: &Values) -> Option<&[IpBlock]> {
    match values {
        Values::ClientIps(blocks) => Some(blocks),
        _ => None,
    }
}

fn destination_blocks(values: &Values) -> Option<&[IpBlock]> {
    match values {
        Values::DestinationIps(blocks) => Some(blocks),
        _ => None,
    }
}

fn exact(pattern: &Pattern) -> Option<&str> {
    match pattern {
        Pattern::Exact(text) => Some(text),
        _ => None,
    }
}

/// A connection of which only the identity or the port is looked at.
fn seen(identity: Option<&SpiffeId>, port: u16) -> Seen<'_> {
    let nowhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    Seen {
        identity,
        port,
        destination_ip: nowhere,
        peer_ip: nowhere,
        client_ip: nowhere,
    }
}

fn field(it: &Placed<'_>) -> String {
    let Placed { part, place, test } = *it;
    MissAt::Test { part, place, test }.field()
}

fn fields(tests: &[Placed<'_>]) -> String {
    let names: Vec<_> = tests.iter().map(field).collect();
    names.join(" and ")
}
