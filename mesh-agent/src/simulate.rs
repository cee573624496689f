//! What another configuration would have done with connections that were seen: recorded
//! flows, judged again by the same functions as enforcement asks. Pure; `mesh-agent policy
//! simulate` reads the folder and the flows.

mod merge;
mod replay;
mod suggest;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::model::World;
use crate::observe::Flow;
use crate::policy::RuleRef;
use merge::Merged;
use replay::{Replay, Said};

use suggest::suggest;

/// What a candidate configuration does with recorded flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulation {
    /// Flows that were judged, each counted once however many agents recorded it.
    pub judged: usize,
    /// Those that were let in, and would be refused.
    pub newly_denied: Vec<Change>,
    /// Those that were refused, and would be let in.
    pub newly_allowed: Vec<Change>,
    /// Those that cannot be judged, and why.
    pub unjudged: Vec<Change>,
    /// Rules of the candidate that matched no flow, as `namespace/policy spec.rules[n]`.
    pub never_matched: Vec<String>,
    /// AuthorizationPolicies that let in what was let in and nothing else, as YAML.
    pub suggestion: String,
}

/// A flow, and what would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// SPIFFE URI of who connects.
    pub source_identity: Option<String>,
    /// Address of who connects, where there is no identity.
    pub source_ip: Option<std::net::IpAddr>,
    /// Workload that is reached, `namespace/name`.
    pub destination: String,
    /// TCP port of the workload.
    pub port: u16,
    /// Connections seen.
    pub count: u64,
    /// The stable reason code of the refusal, of before or to come.
    pub reason: Option<String>,
    /// Why.
    pub detail: String,
}

/// Judges `flows` under `candidate`.
pub fn simulate(flows: &[Flow], candidate: &World) -> Simulation {
    let merged = merge::merge(flows);
    let replay = Replay::new(candidate);
    let mut matched: HashSet<RuleRef> = HashSet::new();
    let mut simulation = Simulation::default();
    for flow in &merged {
        match replay.judge(flow, &mut matched) {
            Err(why) => simulation.unjudged.push(change(flow, None, why)),
            Ok(said) => {
                simulation.judged += 1;
                simulation.note(flow, said);
            }
        }
    }
    let rules = candidate.policies().rules();
    let never = rules.filter(|rule| !matched.contains(rule));
    simulation.never_matched = never.map(|rule| rule.to_string()).collect();
    simulation.suggestion = suggest(&merged, candidate);
    simulation
}

impl Simulation {
    fn note(&mut self, flow: &Merged, said: Said) {
        match (flow.allowed, said) {
            (true, Said::Denied { reason, detail }) => {
                let reason = Some(reason.code().to_owned());
                self.newly_denied.push(change(flow, reason, detail));
            }
            (false, Said::Allowed) => {
                let detail = "nothing refuses it any more".to_owned();
                let change = change(flow, flow.reason.clone(), detail);
                self.newly_allowed.push(change);
            }
            (true, Said::Allowed) | (false, Said::Denied { .. }) => {}
        }
    }
}

fn change(flow: &Merged, reason: Option<String>, detail: String) -> Change {
    Change {
        source_identity: flow.source_identity.clone(),
        source_ip: flow.source_ip,
        destination: flow.destination.clone(),
        port: flow.port,
        count: flow.count,
        reason,
        detail,
    }
}

#[cfg(test)]
mod tests;
