//! Services and the endpoints behind each of their ports, laid out so that
//! resolving an address allocates nothing. Called by [`build`](super::build()).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::address;
use super::build::unique;
use super::object::{Objects, Origin, Sourced, key, name, namespace};
use super::problem::Problem;
use super::workload::Workload;
use super::world::Owner;

/// Names the service of an EndpointSlice, as in Kubernetes.
pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Kubernetes service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's name.
    pub name: Arc<str>,
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// Its virtual addresses, canonical and sorted; none when headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Where it was read.
    pub origin: Origin,
    /// Its TCP ports.
    ports: BTreeMap<u16, Backends>,
}

/// What is ready behind one port, by address family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backends {
    v4: Arc<[Endpoint]>,
    v6: Arc<[Endpoint]>,
}

/// One ready endpoint of a service.
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

    /// What is ready behind a port, of the family of `asked`; `None` if there is no
    /// such port.
    pub(super) fn endpoints(&self, asked: SocketAddr) -> Option<&Arc<[Endpoint]>> {
        let backends = self.ports.get(&asked.port())?;
        Some(match asked.ip() {
            IpAddr::V4(_) => &backends.v4,
            IpAddr::V6(_) => &backends.v6,
        })
    }
}

/// All services, ordered by namespace and name. Enters their cluster IPs among
/// the `owners` of addresses, in which the pods already are.
pub(super) fn services(
    sources: &[&Objects],
    owners: &mut HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Service>> {
    let slices = slices_by_service(sources, problems);
    let objects = sources.iter().flat_map(|objects| &objects.services);
    let objects = unique(objects, "Service", |s| &s.metadata, key, problems);
    let services: Vec<Arc<Service>> = objects
        .into_iter()
        .map(|service| {
            let meta = &service.object.metadata;
            let slices = slices.get(&(namespace(meta), name(meta)));
            let slices = slices.map(Vec::as_slice).unwrap_or_default();
            Arc::new(convert(service, slices, owners, problems))
        })
        .collect();
    claim_addresses(&services, owners, problems);
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
    owners: &HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) -> Service {
    let meta = &service.object.metadata;
    let spec = service.object.spec.as_ref();
    let include_unready = spec
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
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
        let all = backends(port, slices, include_unready, owners);
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.addr.is_ipv4());
        let (v4, v6) = (v4.into(), v6.into());
        ports.insert(number, Backends { v4, v6 });
    }
    Service {
        name: name(meta).into(),
        namespace: namespace(meta).into(),
        cluster_ips: cluster_ips(service, problems),
        origin: service.origin.clone(),
        ports,
    }
}

/// The ready endpoints of one port. EndpointSlices name their ports as the service
/// does, whatever the container calls them, so the name leads to the number.
fn backends(
    port: &core::ServicePort,
    slices: &[&Sourced<discovery::EndpointSlice>],
    include_unready: bool,
    owners: &HashMap<IpAddr, Owner>,
) -> Vec<Endpoint> {
    let wanted = port.name.as_deref().unwrap_or_default();
    // By address, since one endpoint may be in two slices while it moves between them.
    let mut found = BTreeMap::new();
    for slice in slices {
        let ports = slice.object.ports.iter().flatten();
        let number = ports
            .filter(|it| is_tcp(it.protocol.as_deref()))
            .filter(|it| it.name.as_deref().unwrap_or_default() == wanted)
            .find_map(|it| port_number(it.port?));
        let Some(number) = number else { continue };
        for endpoint in slice.object.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|it| it.ready);
            let address = endpoint.addresses.first().map(|text| address::parse(text));
            let Some(Ok(ip)) = address else { continue };
            if !include_unready && ready == Some(false) {
                continue;
            }
            let workload = match owners.get(&ip) {
                Some(Owner::Workload(workload)) => Some(workload.clone()),
                Some(Owner::Disputed | Owner::Service(_)) => continue,
                None => None,
            };
            let addr = SocketAddr::new(ip, number);
            found.insert(addr, Endpoint { addr, workload });
        }
    }
    found.into_values().collect()
}

fn cluster_ips(service: &Sourced<core::Service>, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let Some(spec) = service.object.spec.as_ref() else {
        return Vec::new();
    };
    let single = spec
        .cluster_ip
        .iter()
        .map(|ip| ("spec.clusterIP".to_owned(), ip));
    let several = spec.cluster_ips.iter().flatten().enumerate();
    let several = several.map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let mut ips = Vec::new();
    for (field, text) in single.chain(several) {
        if text.is_empty() || text == "None" {
            continue;
        }
        match address::parse(text) {
            Ok(ip) => ips.push(ip),
            Err(message) => problems.push(Problem::new(
                &service.origin,
                format!("Service {}", key(&service.object.metadata)),
                field,
                message,
                "correct it; until then the service is not reached there",
            )),
        }
    }
    ips.sort();
    ips.dedup();
    ips
}

/// Enters each cluster IP; one that is already somebody's becomes nobody's.
fn claim_addresses(
    services: &[Arc<Service>],
    owners: &mut HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) {
    let mut ordered: Vec<&Arc<Service>> = services.iter().collect();
    ordered.sort_by_key(|service| &service.origin);
    let mut first_claim: HashMap<IpAddr, String> = HashMap::new();
    for (service, ip) in ordered
        .iter()
        .flat_map(|s| s.cluster_ips.iter().map(move |ip| (*s, *ip)))
    {
        let claim = format!(
            "Service {}/{} in {}",
            service.namespace, service.name, service.origin
        );
        let Some(owner) = owners.get(&ip) else {
            owners.insert(ip, Owner::Service(service.clone()));
            first_claim.insert(ip, claim);
            continue;
        };
        let other = match owner {
            Owner::Workload(pod) => format!("Pod {} in {}", pod.uid, pod.origin),
            _ => first_claim
                .get(&ip)
                .cloned()
                .unwrap_or_else(|| "pods".to_owned()),
        };
        problems.push(Problem::new(
            &service.origin,
            format!("Service {}/{}", service.namespace, service.name),
            "spec.clusterIPs",
            format!("{ip} is also the address of {other}"),
            "give each its own address; until then connections to it are refused",
        ));
        owners.insert(ip, Owner::Disputed);
    }
}

/// Kubernetes takes a port without a protocol for TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
