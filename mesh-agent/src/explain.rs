//! Why a connection would be let in or refused, or was: the same functions as
//! enforcement asks, with their reasons spelled out. Pure; the agent answers `/explain`
//! with it.

mod answer;
mod past;
mod query;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::OriginalDst;
use crate::model::{Resolution, Service, Staleness, Workload, World};

pub use answer::{Asked, Explanation, Happened, Mode, Nearest, Side, Verdict, Way};
pub use past::past;
use way::To;

pub use query::{Destination, Query, QueryError, Question};

/// Endpoints of a Service that are explained; what is true of these is seldom
/// otherwise for the rest.
const MAX_ENDPOINTS: usize = 16;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The agent has only begun to read it.
    #[error("no configuration is known yet; `mesh-agent status` says what is waited for")]
    NoConfiguration,
    /// No such pod.
    #[error("the configuration names no pod {0}; `mesh-agent workloads` lists those that it does")]
    NoPod(String),
    /// Neither a pod nor a Service.
    #[error("the configuration names neither a pod nor a Service {0}")]
    NoDestination(String),
    /// Several ports could be meant.
    #[error("say which port of {0} is meant, with --port")]
    NoPort(String),
    /// The destination's address is none that can be connected to.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The connection ended too long ago, or was another node's.
    #[error(
        "this agent knows no connection {0}: it remembers those that are open and the last 4096; each node knows its own"
    )]
    NoConnection(String),
}

/// What the questions are answered from.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The configuration in force.
    pub world: &'a World,
    /// Its number.
    pub generation: u64,
    /// Whether it was read in full.
    pub complete: bool,
    /// Set while it may be out of date.
    pub stale: Option<&'a Staleness>,
}

/// Whether a connection would be allowed, and why.
///
/// # Errors
/// When the configuration does not know what the question is about.
pub fn would(scene: &Scene<'_>, query: &Query) -> Result<Explanation, ExplainError> {
    let world = scene.world;
    let from = world.workload(&query.from);
    let from = from.ok_or_else(|| ExplainError::NoPod(query.from.clone()))?;
    let to = destination(world, from, &query.to)?;
    Ok(explain(scene, from, to))
}

/// What a pod would see if it connected to `to`.
fn explain(scene: &Scene<'_>, from: &Workload, to: SocketAddr) -> Explanation {
    let asked = Asked {
        pod: Some(from.uid.to_string()),
        identity: from.meshed.then(|| from.identity.to_string()),
        no_identity: (!from.meshed).then(|| NOT_MESHED.to_owned()),
        destination: to.to_string(),
    };
    let (route, ways) = match scene.world.resolve(OriginalDst(to)) {
        Resolution::Workload(workload) => {
            let route = format!("pod {}", workload.uid);
            let way = way::explain(scene, from, To::Workload(&workload), to);
            (route, vec![way])
        }
        Resolution::Outside => {
            let route = match scene.world.cluster_range(to.ip()) {
                Some(range) => format!("an address of {range} that nothing has"),
                None => "an address outside the mesh".to_owned(),
            };
            let way = way::explain(scene, from, To::Address, to);
            (route, vec![way])
        }
        Resolution::Service { service, endpoints } => {
            let count = endpoints.len();
            let endpoints = endpoints.iter().take(MAX_ENDPOINTS);
            let ways = endpoints.map(|it| {
                let owner = it.workload.as_ref().map_or(To::Endpoint, To::Workload);
                way::explain(scene, from, owner, it.addr)
            });
            let name = service_name(&service);
            (format!("Service {name}, {count} ready"), ways.collect())
        }
        Resolution::NoSuchPort(service) => {
            let route = format!("Service {}", service_name(&service));
            (
                route,
                vec![Way::nowhere(crate::observe::Reason::ServiceNoPort, to)],
            )
        }
        Resolution::NoReadyEndpoint(service) => {
            let route = format!("Service {}", service_name(&service));
            (
                route,
                vec![Way::nowhere(crate::observe::Reason::ServiceNoEndpoint, to)],
            )
        }
        Resolution::NoLocalEndpoint(service) => {
            let route = format!("Service {}", service_name(&service));
            let reason = crate::observe::Reason::ServiceNoLocalEndpoint;
            (route, vec![Way::nowhere(reason, to)])
        }
        Resolution::Disputed => (
            "an address that the configuration gives to more than one object".to_owned(),
            vec![Way::nowhere(crate::observe::Reason::DestinationUnknown, to)],
        ),
    };
    Explanation::new(scene, asked, route, ways)
}

const NOT_MESHED: &str = "the pod is not in the mesh and connects in plaintext";

/// The address that a pod would connect to.
fn destination(
    world: &World,
    from: &Workload,
    to: &Destination,
) -> Result<SocketAddr, ExplainError> {
    let (name, port) = match to {
        Destination::Address(address) => return Ok(crate::addr::canonical(*address)),
        Destination::Name { name, port } => (name, *port),
    };
    let pod: Option<&Arc<Workload>> = world.workload(name);
    let service = || {
        world
            .services()
            .find(|service| service_name(service) == *name)
    };
    let (addresses, only_port) = match (pod, service()) {
        (Some(pod), _) => (&pod.addresses, None),
        (None, Some(service)) => {
            let mut ports = service.ports();
            (
                &service.cluster_ips,
                ports.next().filter(|_| ports.next().is_none()),
            )
        }
        (None, None) => return Err(ExplainError::NoDestination(name.clone())),
    };
    let port = port.or(only_port);
    let port = port.ok_or_else(|| ExplainError::NoPort(name.clone()))?;
    let reachable = |to: &&IpAddr| from.addresses.iter().any(|it| it.is_ipv4() == to.is_ipv4());
    let address = addresses.iter().find(reachable).or(addresses.first());
    let address = address.ok_or_else(|| ExplainError::NoAddress(name.clone()))?;
    Ok(SocketAddr::new(*address, port))
}

fn service_name(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

#[cfg(test)]
mod tests;
