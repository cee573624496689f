//! Services and the endpoints behind each of their ports, laid out so that
//! resolving an address allocates nothing. Called by [`build`](super::build()).
//!
//! What is honoured follows kube-proxy of Kubernetes 1.36 (`pkg/proxy/topology.go`), as
//! a pod sees it.

mod addresses;
mod endpoints;
mod object;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::build::unique;
use super::object::{Objects, Origin, Sourced};
use super::problem::Problem;
use super::workload::Workload;
use super::world::{Owner, World};
use endpoints::Backends;
use place::Place;

pub(super) use addresses::Owners;
use object::Meta;
pub(super) use object::ServicePort;
pub use object::{EndpointSlice, ServiceObject};

/// Names the service of an EndpointSlice, as in Kubernetes.
pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Seconds for which `sessionAffinity: ClientIP` holds where the service does not say
/// (`core/v1` `DefaultClientIPServiceAffinitySeconds`), and at most.
const AFFINITY_DEFAULT: i32 = 10_800;
const AFFINITY_MAX: i32 = 86_400;

/// A Kubernetes service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's name.
    pub name: Arc<str>,
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// Its virtual addresses, canonical and sorted; none when headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Further addresses at which its ports, and only these, are its own, canonical and
    /// sorted: `spec.externalIPs`, and those of a load balancer with `ipMode: VIP`.
    pub external_ips: Vec<IpAddr>,
    /// `sessionAffinity: ClientIP`: how long after its last connection a client is
    /// led to the same endpoint.
    pub affinity: Option<Duration>,
    /// Where it was read.
    pub origin: Origin,
    /// Its TCP ports.
    ports: BTreeMap<u16, Families>,
}

/// What is behind one port, by address family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Families {
    v4: Backends,
    v6: Backends,
}

/// One endpoint of a service that takes connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whose the address is, when it is a pod's that the mesh knows.
    pub workload: Option<Arc<Workload>>,
}

impl Service {
    /// The TCP ports, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// What is behind a port for a pod of this node, of the family of `asked`; `None` if
    /// there is no such port.
    pub(super) fn backends(&self, asked: SocketAddr) -> Option<&Backends> {
        let families = self.ports.get(&asked.port())?;
        Some(match asked.ip() {
            IpAddr::V4(_) => &families.v4,
            IpAddr::V6(_) => &families.v6,
        })
    }
}

/// All services as the agent of `node` sees them, ordered by namespace and name. Enters
/// their addresses among the `owners`, in which the pods already are.
pub(super) fn services(
    sources: &[&Objects],
    node: &str,
    previous: Option<&World>,
    owners: &mut Owners,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Service>> {
    let place = place::of(sources, node, problems);
    let slices = slices_by_service(sources, problems);
    let objects = sources.iter().flat_map(|objects| &objects.services);
    let objects = unique(
        objects,
        "Service",
        |it| &it.meta.name,
        |it| it.meta.key(),
        problems,
    );
    let previous = previous.map_or(&[][..], |world| &world.services);
    let previous = previous.iter().map(|it| (it.key(), it));
    let previous: HashMap<_, _> = previous.collect();
    let mut services = Vec::with_capacity(objects.len());
    for service in objects {
        let Meta {
            namespace, name, ..
        } = &service.object.meta;
        let slices = slices.get(&(&**namespace, &**name));
        let slices = slices.map(Vec::as_slice).unwrap_or_default();
        let service = convert(service, slices, &place, &owners.by_ip, problems);
        services.push(match previous.get(&service.key()) {
            // Most are what they were, and take no memory again.
            Some(same) if ***same == service => Arc::clone(same),
            _ => Arc::new(service),
        });
    }
    addresses::claim(&services, owners, problems);
    services
}

type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// The slices of each service, by namespace and service name.
fn slices_by_service<'a>(sources: &[&'a Objects], problems: &mut Vec<Problem>) -> Slices<'a> {
    let slices = sources.iter().flat_map(|objects| &objects.endpoint_slices);
    let kind = "EndpointSlice";
    let slices = unique(
        slices,
        kind,
        |it| &it.meta.name,
        |it| it.meta.key(),
        problems,
    );
    let mut by_service = Slices::new();
    for Sourced { object, origin } in slices {
        let Some(service) = &object.service else {
            continue;
        };
        let flaws = object.flaws.iter();
        let whose = || format!("{kind} {}", object.meta.key());
        problems.extend(flaws.map(|flaw| flaw.report(origin, &whose())));
        let service = (&*object.meta.namespace, &**service);
        by_service.entry(service).or_default().push(object);
    }
    by_service
}

fn convert(
    service: &Sourced<ServiceObject>,
    slices: &[&EndpointSlice],
    place: &Place<'_>,
    owners: &HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) -> Service {
    let Sourced { object, origin } = service;
    let flaws = object.flaws.iter();
    let whose = || format!("Service {}", object.meta.key());
    problems.extend(flaws.map(|flaw| flaw.report(origin, &whose())));
    let rules = endpoints::Rules {
        place,
        include_unready: object.include_unready,
        local_only: object.local_only,
    };
    let mut ports = BTreeMap::new();
    for port in object.ports.iter().filter(|port| port.is_tcp) {
        let Some(number) = port_number(port.number) else {
            continue;
        };
        let all = endpoints::of_port(port, slices, &rules, owners);
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.addr.is_ipv4());
        let (v4, v6) = (rules.apply(&v4), rules.apply(&v6));
        ports.insert(number, Families { v4, v6 });
    }
    let affinity = object.affinity;
    Service {
        name: Arc::clone(&object.meta.name),
        namespace: Arc::clone(&object.meta.namespace),
        cluster_ips: object.cluster_ips.to_vec(),
        external_ips: object.external_ips.to_vec(),
        affinity: affinity.map(|seconds| Duration::from_secs(seconds.into())),
        origin: origin.clone(),
        ports,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
