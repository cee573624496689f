//! The answer of `mesh-agent explain`, in the form in which it crosses the agent's socket.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Scene;
use crate::observe::Reason;

/// Why a connection would be let in or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What happened, where one was asked for that did.
    pub happened: Option<Happened>,
    /// What the policies in force say.
    pub verdict: Verdict,
    /// Who would connect to what.
    pub asked: Asked,
    /// What the destination is, as the proxy resolves it.
    pub route: String,
    /// Each way that the connection may take: one, or one an endpoint of a Service.
    pub ways: Vec<Way>,
    /// Number of the configuration that was asked.
    pub generation: u64,
    /// Whether it was read in full.
    pub complete: bool,
}

/// What the policies in force say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is let in.
    Allowed,
    /// It is refused.
    Denied,
    /// It depends on the endpoint.
    Mixed,
    /// The configuration of now does not know the two ends, or policy had no part in it.
    Unknown,
}

/// The connection in question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The pod that connects, where it is known.
    pub pod: Option<String>,
    /// The SPIFFE URI that it proves.
    pub identity: Option<String>,
    /// Why it proves none.
    pub no_identity: Option<String>,
    /// Where it connects to.
    pub destination: String,
}

/// A connection that was made, or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Its name in the access log.
    pub id: String,
    /// `outbound` or `inbound`, seen from the pod.
    pub direction: String,
    /// The local pod.
    pub pod: String,
    /// Where it came from.
    pub source: String,
    /// Where it was opened to.
    pub destination: String,
    /// `open`, or the access log's `outcome`.
    pub outcome: String,
    /// The stable reason code.
    pub reason: Option<String>,
    /// What the code means.
    pub meaning: Option<String>,
    /// What to do about it.
    pub cure: Option<String>,
    /// The policy that refused it, `namespace/name`.
    pub policy: Option<String>,
    /// Which of its rules, counted from 0.
    pub rule: Option<usize>,
    /// What exactly happened.
    pub detail: Option<String>,
    /// The rule that came nearest to letting it in.
    pub nearest: Option<Nearest>,
    /// The AUDIT policies that matched.
    pub audited: Vec<String>,
    /// What policies under dry run would have done.
    pub dry_run: Vec<String>,
}

/// One way of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The pod that it reaches; `None` outside the cluster.
    pub pod: Option<String>,
    /// The address that it reaches.
    pub address: String,
    /// The SPIFFE URI that must be found there.
    pub identity: Option<String>,
    /// `mutual_tls` or `plaintext`.
    pub transport: Option<String>,
    /// What the destination's port takes.
    pub mode: Option<Mode>,
    /// NetworkPolicies that shut the tunnels' port at either end. The CNI enforces them.
    #[serde(default)]
    pub network: Vec<String>,
    /// What the source's agent says; `None` where there is none.
    pub source: Option<Side>,
    /// What the destination's agent says; `None` where there is none.
    pub destination: Option<Side>,
}

/// What a port takes, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// `PERMISSIVE`, `STRICT` or `DISABLE`.
    pub mode: String,
    /// `PeerAuthentication namespace/name`, or `default`.
    pub from: String,
}

/// What one side's agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Whether it lets the connection pass.
    pub allowed: bool,
    /// The stable reason code of a refusal.
    pub reason: Option<String>,
    /// The policy that decided, `namespace/name`.
    pub policy: Option<String>,
    /// Which of its rules, counted from 0.
    pub rule: Option<usize>,
    /// The whole reason, as in the access log.
    pub detail: String,
    /// What to do about a refusal.
    pub cure: Option<String>,
    /// The rule that came nearest to letting it in.
    pub nearest: Option<Nearest>,
    /// The AUDIT policies that match.
    pub audited: Vec<String>,
    /// What policies under dry run would do.
    pub dry_run: Vec<String>,
}

/// The rule that came nearest to letting a connection in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearest {
    /// The policy, `namespace/name`.
    pub policy: String,
    /// Which of its rules, counted from 0.
    pub rule: Option<usize>,
    /// The first field that did not match.
    pub field: String,
    /// What the connection had there.
    pub seen: String,
    /// What the rule asks for there.
    pub wanted: String,
}

impl Explanation {
    pub(super) fn new(scene: &Scene<'_>, asked: Asked, route: String, ways: Vec<Way>) -> Self {
        Self {
            happened: None,
            verdict: Verdict::of(&ways),
            asked,
            route,
            ways,
            generation: scene.generation,
            complete: scene.complete,
        }
    }
}

impl Verdict {
    fn of(ways: &[Way]) -> Self {
        let allowed = ways.iter().filter(|way| way.is_allowed()).count();
        match allowed {
            _ if ways.is_empty() => Self::Unknown,
            0 => Self::Denied,
            all if all == ways.len() => Self::Allowed,
            _ => Self::Mixed,
        }
    }
}

impl Way {
    /// Whether every side that is asked lets the connection pass.
    pub fn is_allowed(&self) -> bool {
        let mut sides = [&self.source, &self.destination].into_iter().flatten();
        sides.all(|side| side.allowed)
    }

    /// The proxy finds nothing to connect to.
    pub(super) fn nowhere(reason: Reason, to: SocketAddr) -> Self {
        let side = Side {
            reason: Some(reason.code().to_owned()),
            detail: reason.meaning().to_owned(),
            cure: Some(reason.cure().to_owned()),
            ..Side::default()
        };
        Self {
            pod: None,
            address: to.to_string(),
            identity: None,
            transport: None,
            mode: None,
            network: Vec::new(),
            source: Some(side),
            destination: None,
        }
    }
}
