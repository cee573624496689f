//! Services and the endpoints behind each of their ports, laid out so that
//! resolving an address allocates nothing. Called by [`build`](super::build()).
//!
//! What is honoured follows kube-proxy of Kubernetes 1.36 (`pkg/proxy/topology.go`), as
//! a pod sees it.

mod addresses;
mod endpoints;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::address;
use super::build::unique;
use super::object::{Objects, Origin, Sourced, key, name, namespace};
use super::problem::Problem;
use super::workload::Workload;
use super::world::{Owner, World};
use endpoints::Backends;
use place::Place;

pub(super) use addresses::Owners;

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
    let objects = unique(objects, "Service", |s| &s.metadata, key, problems);
    let previous = previous.map_or(&[][..], |world| &world.services);
    let previous = previous.iter().map(|it| (it.key(), it));
    let previous: HashMap<_, _> = previous.collect();
    let mut services = Vec::with_capacity(objects.len());
    for service in objects {
        let meta = &service.object.metadata;
        let slices = slices.get(&(namespace(meta), name(meta)));
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

type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a Sourced<discovery::EndpointSlice>>>;

/// The usable slices of each service, by namespace and service name. An address
/// that no endpoint can have is reported here, once, and passed over later.
fn slices_by_service<'a>(sources: &[&'a Objects], problems: &mut Vec<Problem>) -> Slices<'a> {
    let slices = sources.iter().flat_map(|objects| &objects.endpoint_slices);
    let mut by_service = Slices::new();
    for slice in unique(slices, "EndpointSlice", |s| &s.metadata, key, problems) {
        let meta = &slice.object.metadata;
        let labels = meta.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else {
            continue;
        };
        if slice.object.address_type == "FQDN" {
            continue;
        }
        let endpoints = slice.object.endpoints.iter().flatten().enumerate();
        for (i, text) in endpoints.filter_map(|(i, it)| Some((i, it.addresses.first()?))) {
            if let Err(message) = address::parse(text) {
                problems.push(Problem::new(
                    &slice.origin,
                    format!("EndpointSlice {}", key(meta)),
                    format!("endpoints[{i}].addresses[0]"),
                    message,
                    "correct it; until then this endpoint is left out",
                ));
            }
        }
        let service = (namespace(meta), service.as_str());
        by_service.entry(service).or_default().push(slice);
    }
    by_service
}

fn convert(
    service: &Sourced<core::Service>,
    slices: &[&Sourced<discovery::EndpointSlice>],
    place: &Place<'_>,
    owners: &HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) -> Service {
    let meta = &service.object.metadata;
    let spec = service.object.spec.as_ref();
    let rules = endpoints::Rules {
        place,
        include_unready: spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true),
        local_only: spec.and_then(|spec| spec.internal_traffic_policy.as_deref()) == Some("Local"),
    };
    let mut ports = BTreeMap::new();
    let declared = spec.and_then(|spec| spec.ports.as_ref());
    for (i, port) in declared.into_iter().flatten().enumerate() {
        if !is_tcp(port.protocol.as_deref()) {
            continue;
        }
        let Some(number) = port_number(port.port) else {
            problems.push(Problem::new(
                &service.origin,
                format!("Service {}", key(meta)),
                format!("spec.ports[{i}].port"),
                format!("{} is not a TCP port", port.port),
                "write a number from 1 to 65535",
            ));
            continue;
        };
        let all = endpoints::of_port(port, slices, &rules, owners);
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.addr.is_ipv4());
        let (v4, v6) = (rules.apply(&v4), rules.apply(&v6));
        ports.insert(number, Families { v4, v6 });
    }
    let cluster_ips = addresses::cluster(service, problems);
    let external_ips = match cluster_ips.is_empty() {
        // kube-proxy passes over those of a headless service too (`ShouldSkipService`).
        true => Vec::new(),
        false => addresses::external(service, problems),
    };
    Service {
        name: name(meta).into(),
        namespace: namespace(meta).into(),
        cluster_ips,
        external_ips,
        affinity: affinity(service, problems),
        origin: service.origin.clone(),
        ports,
    }
}

fn affinity(service: &Sourced<core::Service>, problems: &mut Vec<Problem>) -> Option<Duration> {
    let spec = service.object.spec.as_ref()?;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let config = config.and_then(|config| config.client_ip.as_ref());
    let seconds = config
        .and_then(|config| config.timeout_seconds)
        .unwrap_or(AFFINITY_DEFAULT);
    let usable = seconds.clamp(1, AFFINITY_MAX);
    if usable != seconds {
        problems.push(Problem::new(
            &service.origin,
            format!("Service {}", key(&service.object.metadata)),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not a number from 1 to {AFFINITY_MAX}; {usable} is used"),
            "write a number in that range",
        ));
    }
    Some(Duration::from_secs(usable.unsigned_abs().into()))
}

/// Kubernetes takes a port without a protocol for TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
