//! NetworkPolicies, as far as they concern the tunnels: whether one lets TCP port 15008 through.
//! The cluster's CNI enforces them, not Isthmus: what is said here explains a connection that gets
//! no answer. Made by [`build`](super::build()); asked by `explain`, the proxy's failures, the
//! pods' statuses and `precheck`.

mod selector;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::object::{Objects, Origin, Sourced};
use super::problem::Problem;
use super::workload::Workload;
use crate::addr::HBONE_PORT;
use selector::Selector;

/// Policies that a text names; one that opens the port is enough.
const NAMED: usize = 3;

/// A `networking.k8s.io/v1/NetworkPolicy`, the part that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    namespace: Arc<str>,
    name: Arc<str>,
    pods: Selector,
    /// What it lets in; `None` if it is not about that.
    ingress: Option<Opening>,
    /// What it lets out; `None` if it is not about that.
    egress: Option<Opening>,
}

/// Whether the rules of one direction let TCP port 15008 through, from or to anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opening {
    Open,
    /// Where the pod has a port of one of these names, and it is 15008; never if there is none.
    Named(Box<[Box<str>]>),
}

/// The direction in which a policy shuts the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// NetworkPolicies that together shut port 15008 of a pod in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutPort {
    direction: Direction,
    /// `namespace/name` of the pod.
    pod: Arc<str>,
    /// All that select the pod in this direction; none of them opens the port.
    policies: Vec<Arc<NetworkPolicy>>,
}

/// All NetworkPolicies, by namespace.
#[derive(Clone, Debug, Default)]
pub struct NetworkPolicies(BTreeMap<Arc<str>, Vec<Arc<NetworkPolicy>>>);

impl NetworkPolicies {
    pub(super) fn new(sources: &[&Objects]) -> Self {
        let all = sources.iter().flat_map(|objects| &objects.network_policies);
        Self::of(all.map(|it| Arc::clone(&it.object)))
    }

    /// All of a cluster.
    pub fn of(all: impl Iterator<Item = Arc<NetworkPolicy>>) -> Self {
        let mut by_namespace: BTreeMap<Arc<str>, Vec<Arc<NetworkPolicy>>> = BTreeMap::new();
        for policy in all {
            let namespace = Arc::clone(&policy.namespace);
            by_namespace.entry(namespace).or_default().push(policy);
        }
        for policies in by_namespace.values_mut() {
            policies.sort_by(|one, two| one.name.cmp(&two.name));
        }
        Self(by_namespace)
    }

    /// Those that keep tunnels out of a pod.
    pub fn shut_into(&self, pod: &Workload) -> Option<ShutPort> {
        let ports = pod.hbone_port_names();
        self.shut(
            &pod.namespace,
            &pod.name,
            &pod.labels,
            ports,
            Direction::Ingress,
        )
    }

    /// Those that keep a pod's tunnels in.
    pub fn shut_out_of(&self, pod: &Workload) -> Option<ShutPort> {
        let ports = pod.hbone_port_names();
        self.shut(
            &pod.namespace,
            &pod.name,
            &pod.labels,
            ports,
            Direction::Egress,
        )
    }

    /// Those that shut the port of a pod with these labels, in either direction.
    pub fn shut_of(
        &self,
        namespace: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
        hbone_ports: &[Box<str>],
    ) -> impl Iterator<Item = ShutPort> {
        [Direction::Ingress, Direction::Egress]
            .into_iter()
            .filter_map(move |direction| self.shut(namespace, name, labels, hbone_ports, direction))
    }

    /// `hbone_ports` are the names of the pod's container ports that are 15008.
    fn shut(
        &self,
        namespace: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
        hbone_ports: &[Box<str>],
        direction: Direction,
    ) -> Option<ShutPort> {
        let mut policies = Vec::new();
        for policy in self.0.get(namespace)? {
            let Some(opening) = policy.opening(direction) else {
                continue;
            };
            if !policy.pods.matches(labels) {
                continue;
            }
            if opening.is_open(hbone_ports) {
                return None;
            }
            policies.push(Arc::clone(policy));
        }
        (!policies.is_empty()).then(|| ShutPort {
            direction,
            pod: format!("{namespace}/{name}").into(),
            policies,
        })
    }
}

impl ShutPort {
    /// `namespace/name` of each policy.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let policies = self.policies.iter();
        policies.map(|it| format!("{}/{}", it.namespace, it.name))
    }
}

impl fmt::Display for ShutPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.policies.len().saturating_sub(NAMED);
        let names: Vec<String> = self.names().take(NAMED).collect();
        let plural = if self.policies.len() == 1 { "y" } else { "ies" };
        write!(f, "NetworkPolic{plural} {}", names.join(", "))?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        let allow = if self.policies.len() == 1 {
            "allows"
        } else {
            "allow"
        };
        let pod = &self.pod;
        match self.direction {
            Direction::Ingress => write!(
                f,
                " {allow} no TCP to port {HBONE_PORT} of {pod}, by which the mesh reaches it: where \
                 the CNI enforces this, connections from the mesh get no answer. Allow ingress to \
                 port {HBONE_PORT} beside the application's ports"
            ),
            Direction::Egress => write!(
                f,
                " {allow} no TCP from {pod} to port {HBONE_PORT}, by which it reaches the mesh: where \
                 the CNI enforces this, its connections into the mesh get no answer. Allow egress to \
                 port {HBONE_PORT} beside the applications' ports"
            ),
        }
    }
}

/// Warns of this node's pods whose port 15008 is shut.
pub(super) fn report<'a>(
    policies: &NetworkPolicies,
    local: impl Iterator<Item = &'a Arc<Workload>>,
    problems: &mut Vec<Problem>,
) {
    for pod in local {
        let shut = [policies.shut_into(pod), policies.shut_out_of(pod)];
        for shut in shut.into_iter().flatten() {
            let all: Vec<String> = shut.names().collect();
            let problem = Problem::new(
                &Origin::api(),
                format!("Pod {}", pod.uid),
                format!("NetworkPolicy {}", all.join(", ")),
                shut.to_string(),
                "mesh-agent explain names the policies of both ends of a connection",
            );
            problems.push(problem.into_warning());
        }
    }
}

impl NetworkPolicy {
    fn opening(&self, direction: Direction) -> Option<&Opening> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

impl Opening {
    fn is_open(&self, hbone_ports: &[Box<str>]) -> bool {
        match self {
            Self::Open => true,
            Self::Named(names) => names.iter().any(|name| hbone_ports.contains(name)),
        }
    }

    /// What rules with these lists of ports open. A rule without ports opens all.
    fn of<'a>(rules: impl Iterator<Item = Option<&'a Vec<networking::NetworkPolicyPort>>>) -> Self {
        let mut names = Vec::new();
        for ports in rules {
            let Some(ports) = ports.filter(|ports| !ports.is_empty()) else {
                return Self::Open;
            };
            for port in ports {
                match PortMatch::of(port) {
                    PortMatch::Yes => return Self::Open,
                    PortMatch::No => {}
                    PortMatch::IfNamed(name) => names.push(name.into()),
                }
            }
        }
        Self::Named(names.into())
    }
}

/// Whether an entry of `ports` is port 15008.
enum PortMatch<'a> {
    Yes,
    No,
    IfNamed(&'a str),
}

impl<'a> PortMatch<'a> {
    fn of(port: &'a networking::NetworkPolicyPort) -> Self {
        if port.protocol.as_deref().is_some_and(|it| it != "TCP") {
            return Self::No;
        }
        let hbone = i32::from(HBONE_PORT);
        let matches = match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::String(name)), _) => return Self::IfNamed(name),
            (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&hbone),
            (Some(IntOrString::Int(only)), None) => *only == hbone,
        };
        if matches { Self::Yes } else { Self::No }
    }
}

impl From<networking::NetworkPolicy> for NetworkPolicy {
    fn from(it: networking::NetworkPolicy) -> Self {
        let spec = it.spec.unwrap_or_default();
        let (ingress, egress) = (
            spec.ingress.unwrap_or_default(),
            spec.egress.unwrap_or_default(),
        );
        // The API's default: always ingress, and egress where there are rules for it.
        let types = spec.policy_types.unwrap_or_default();
        let is_about = |name: &str, default: bool| match types.is_empty() {
            true => default,
            false => types.iter().any(|it| it == name),
        };
        let lets_in = || Opening::of(ingress.iter().map(|rule| rule.ports.as_ref()));
        let lets_out = || match Opening::of(egress.iter().map(|rule| rule.ports.as_ref())) {
            // The name is that of a port of the destination, which is not known here.
            Opening::Named(names) if !names.is_empty() => Opening::Open,
            opening => opening,
        };
        Self {
            namespace: it.metadata.namespace.as_deref().unwrap_or("default").into(),
            name: it.metadata.name.unwrap_or_default().into(),
            pods: spec.pod_selector.unwrap_or_default().into(),
            ingress: is_about("Ingress", true).then(lets_in),
            egress: is_about("Egress", !egress.is_empty()).then(lets_out),
        }
    }
}

impl From<networking::NetworkPolicy> for Sourced<Arc<NetworkPolicy>> {
    fn from(it: networking::NetworkPolicy) -> Self {
        let origin = Origin::api();
        let object = Arc::new(it.into());
        Self { object, origin }
    }
}

#[cfg(test)]
mod tests;
