//! One rule of a policy, and the one function that says whether it matches. The same
//! function says which field kept it from matching, so an explanation cannot differ
//! from what is enforced.

use std::fmt;

use super::request::Seen;
use super::values::{Account, IpBlock, Pattern, Principals, principal};

/// A rule matches when each of its groups does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) groups: Box<[Group]>,
    /// The first field that can only be answered with HTTP, in a rule that therefore
    /// never matches.
    pub(crate) unanswerable: Option<Box<str>>,
}

/// A group matches when any of its clauses does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) part: Part,
    pub(crate) any: Box<[Clause]>,
}

/// A clause matches when all of its tests do; without any, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Its place in the list as written.
    pub(crate) place: usize,
    pub(crate) all: Box<[Test]>,
}

/// The part of the written rule that a group was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    From,
    To,
    When,
}

/// One field and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    /// One of Istio's `not…` fields.
    pub(crate) negated: bool,
    pub(crate) values: Values,
}

/// The values of a field, of which one is to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Principals(Principals),
    Namespaces(Box<[Pattern]>),
    TrustDomains(Box<[Pattern]>),
    Accounts(Box<[Account]>),
    PeerIps(Box<[IpBlock]>),
    ClientIps(Box<[IpBlock]>),
    DestinationIps(Box<[IpBlock]>),
    Ports(Box<[u16]>),
}

/// Where a rule failed to match, and how far it had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Miss<'a> {
    /// Groups that matched, then tests that matched in the nearest clause of the next.
    pub(super) depth: (usize, usize),
    pub(super) at: MissAt<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum MissAt<'a> {
    Test {
        part: Part,
        place: usize,
        test: &'a Test,
    },
    /// The rule has a field that needs HTTP.
    Unanswerable(&'a str),
}

impl Rule {
    /// Whether the rule matches, or the field that kept it from that.
    pub(super) fn check(&self, seen: &Seen<'_>) -> Result<(), Miss<'_>> {
        for (depth, group) in self.groups.iter().enumerate() {
            group.check(depth, seen)?;
        }
        match &self.unanswerable {
            None => Ok(()),
            Some(field) => Err(Miss {
                depth: (self.groups.len(), 0),
                at: MissAt::Unanswerable(field),
            }),
        }
    }
}

impl Group {
    fn check(&self, depth: usize, seen: &Seen<'_>) -> Result<(), Miss<'_>> {
        let mut nearest: Option<Miss<'_>> = None;
        for clause in &self.any {
            let failed = clause.all.iter().position(|test| !test.matches(seen));
            let Some(failed) = failed else {
                return Ok(());
            };
            if nearest.is_none_or(|nearest| nearest.depth.1 < failed) {
                nearest = Some(Miss {
                    depth: (depth, failed),
                    at: MissAt::Test {
                        part: self.part,
                        place: clause.place,
                        test: &clause.all[failed],
                    },
                });
            }
        }
        // A group is never made without clauses; without any it would ask nothing.
        nearest.map_or(Ok(()), Err)
    }
}

impl Test {
    /// A field that speaks of an identity is not satisfied by a peer without one, and
    /// its `not…` form is: Istio's node proxy compares with an empty text
    /// (`ztunnel/src/rbac.rs`), and writes STRICT itself as `notPrincipals: ["*"]`.
    pub(super) fn matches(&self, seen: &Seen<'_>) -> bool {
        self.values.any(seen) != self.negated
    }
}

impl Values {
    fn any(&self, seen: &Seen<'_>) -> bool {
        match self {
            Self::Principals(principals) => seen.identity.is_some_and(|identity| {
                let parts = principal(identity);
                let mut patterns = principals.patterns().iter();
                patterns.any(|pattern| pattern.matches(&parts))
            }),
            Self::TrustDomains(patterns) => seen.identity.is_some_and(|identity| {
                let parts = [identity.trust_domain().as_str()];
                patterns.iter().any(|pattern| pattern.matches(&parts))
            }),
            Self::Namespaces(patterns) => seen.identity.is_some_and(|identity| {
                let parts = [identity.namespace()];
                patterns.iter().any(|pattern| pattern.matches(&parts))
            }),
            Self::Accounts(accounts) => seen.identity.is_some_and(|identity| {
                accounts.iter().any(|account| {
                    *account.name == *identity.service_account()
                        && *account.namespace == *identity.namespace()
                })
            }),
            Self::PeerIps(blocks) => blocks.iter().any(|block| block.contains(seen.peer_ip)),
            Self::ClientIps(blocks) => blocks.iter().any(|block| block.contains(seen.client_ip)),
            Self::DestinationIps(blocks) => {
                let ip = seen.destination_ip;
                blocks.iter().any(|block| block.contains(ip))
            }
            Self::Ports(ports) => ports.contains(&seen.port),
        }
    }

    pub(super) fn is_of_identity(&self) -> bool {
        matches!(
            self,
            Self::Principals(_) | Self::Namespaces(_) | Self::TrustDomains(_) | Self::Accounts(_)
        )
    }

    /// The field's name in a source or an operation, without `not`.
    fn field(&self) -> &'static str {
        match self {
            Self::Principals(_) => "principals",
            Self::Namespaces(_) => "namespaces",
            Self::TrustDomains(_) => "trustDomains",
            Self::Accounts(_) => "serviceAccounts",
            Self::PeerIps(_) => "ipBlocks",
            Self::ClientIps(_) => "remoteIpBlocks",
            Self::DestinationIps(_) => "destination.ip",
            Self::Ports(_) => "ports",
        }
    }
}

impl MissAt<'_> {
    /// The field as a path in the rule: `from[0].source.notPrincipals`.
    pub(super) fn field(&self) -> String {
        let Self::Test { part, place, test } = self else {
            let Self::Unanswerable(field) = self else {
                return String::new();
            };
            return (*field).to_owned();
        };
        let name = test.values.field();
        let name = if test.negated {
            let (first, rest) = name.split_at(1);
            format!("not{}{rest}", first.to_uppercase())
        } else {
            name.to_owned()
        };
        match part {
            Part::From => format!("from[{place}].source.{name}"),
            Part::To => format!("to[{place}].operation.{name}"),
            Part::When if test.negated => format!("when[{place}].notValues"),
            Part::When => format!("when[{place}].values"),
        }
    }

    /// What the connection had there.
    pub(super) fn seen(&self, seen: &Seen<'_>) -> String {
        let Self::Test { test, .. } = self else {
            return "a connection whose HTTP is not read".to_owned();
        };
        if test.values.is_of_identity() && seen.identity.is_none() {
            return "no identity (plaintext)".to_owned();
        }
        let identity = seen.identity;
        match &test.values {
            Values::Principals(_) => identity.map_or_else(String::new, |id| principal(id).concat()),
            Values::Namespaces(_) => {
                identity.map_or_else(String::new, |id| id.namespace().to_owned())
            }
            Values::TrustDomains(_) => {
                identity.map_or_else(String::new, |id| id.trust_domain().to_string())
            }
            Values::Accounts(_) => identity.map_or_else(String::new, |id| {
                format!("{}/{}", id.namespace(), id.service_account())
            }),
            Values::PeerIps(_) => seen.peer_ip.to_string(),
            Values::ClientIps(_) => seen.client_ip.to_string(),
            Values::DestinationIps(_) => seen.destination_ip.to_string(),
            Values::Ports(_) => seen.port.to_string(),
        }
    }

    /// What the rule asks for there.
    pub(super) fn wanted(&self) -> String {
        let Self::Test { test, .. } = self else {
            return "an answer that only HTTP can give".to_owned();
        };
        let values = match &test.values {
            Values::Principals(principals) => list(principals.written()),
            Values::Namespaces(values) | Values::TrustDomains(values) => list(values),
            Values::Accounts(values) => list(values),
            Values::PeerIps(values)
            | Values::ClientIps(values)
            | Values::DestinationIps(values) => list(values),
            Values::Ports(values) => list(values),
        };
        let word = if test.negated { "none of" } else { "one of" };
        format!("{word} {values}")
    }
}

/// At most eight values, so that a detail stays readable.
fn list<T: fmt::Display>(values: &[T]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = values.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = values.len().saturating_sub(SHOWN);
    match more {
        0 => format!("[{}]", shown.join(", ")),
        _ => format!("[{}, and {more} more]", shown.join(", ")),
    }
}
