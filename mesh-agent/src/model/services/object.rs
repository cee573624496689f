//! Services and EndpointSlices as the model needs them: a small part of what Kubernetes
//! holds of them, so that a whole cluster's fit into an agent. Made by `config`, from
//! files and from the API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::address;
use super::super::keys::{Keys, is_ours};
use super::super::object::Origin;
use super::super::problem::Problem;
use super::{AFFINITY_DEFAULT, AFFINITY_MAX, SERVICE_NAME_LABEL, port_number};
use crate::policy::Labels;

/// What is used of `metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Meta {
    /// `metadata.namespace`, `default` when absent.
    pub(in crate::model) namespace: Arc<str>,
    /// `metadata.name`, empty when absent.
    pub(in crate::model) name: Arc<str>,
    /// Those of `metadata.labels` that are ours.
    labels: BTreeMap<String, String>,
    /// Those of `metadata.annotations` that are ours.
    annotations: BTreeMap<String, String>,
}

/// Something that cannot be used as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    field: String,
    message: String,
    cure: &'static str,
}

/// A `v1/Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceObject {
    /// Who it is.
    pub(in crate::model) meta: Meta,
    /// `spec.selector`
    pub(in crate::model) selector: Labels,
    /// `spec.ports`
    pub(in crate::model) ports: Box<[ServicePort]>,
    /// `spec.clusterIP` and `spec.clusterIPs`, canonical and sorted; none of `ExternalName`,
    /// which is answered by DNS.
    pub(super) cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs` and those of a load balancer, canonical and sorted.
    pub(super) external_ips: Box<[IpAddr]>,
    /// `sessionAffinity: ClientIP` and its time in seconds.
    pub(super) affinity: Option<u32>,
    /// `publishNotReadyAddresses`
    pub(super) include_unready: bool,
    /// `internalTrafficPolicy: Local`
    pub(super) local_only: bool,
    pub(super) flaws: Vec<Flaw>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct ServicePort {
    /// Empty when absent.
    pub(super) name: Arc<str>,
    pub(super) number: i32,
    pub(super) is_tcp: bool,
    /// The container's port; `None` if it is given by its name.
    pub(in crate::model) target: Option<i32>,
}

/// A `discovery.k8s.io/v1/EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Who it is.
    pub(in crate::model) meta: Meta,
    /// The Service that it belongs to.
    pub(in crate::model) service: Option<Arc<str>>,
    /// `ports`
    pub(in crate::model) ports: Box<[SlicePort]>,
    /// Those of its endpoints that have a usable address.
    pub(in crate::model) endpoints: Box<[SliceEndpoint]>,
    pub(super) flaws: Vec<Flaw>,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct SlicePort {
    /// Empty when absent.
    pub(super) name: Arc<str>,
    /// `None` stands for all.
    pub(in crate::model) number: Option<i32>,
    pub(super) is_tcp: bool,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct SliceEndpoint {
    pub(in crate::model) address: IpAddr,
    pub(super) node: Option<Arc<str>>,
    /// `None` unless some are given.
    pub(super) hints: Option<Box<Hints>>,
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

/// For whom an endpoint is best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hints {
    pub(super) nodes: Vec<Arc<str>>,
    pub(super) zones: Vec<Arc<str>>,
}

impl Meta {
    /// `<namespace>/<name>`
    pub(in crate::model) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its labels and annotations, as far as they are ours.
    pub(in crate::model) fn keys(&self) -> Keys<'_> {
        Keys {
            labels: Some(&self.labels),
            annotations: Some(&self.annotations),
        }
    }
}

impl From<ObjectMeta> for Meta {
    fn from(meta: ObjectMeta) -> Self {
        let ours = |keys: Option<BTreeMap<String, String>>| {
            let keys = keys.into_iter().flatten();
            keys.filter(|(key, _)| is_ours(key)).collect()
        };
        Self {
            namespace: meta.namespace.as_deref().unwrap_or("default").into(),
            name: meta.name.unwrap_or_default().into(),
            labels: ours(meta.labels),
            annotations: ours(meta.annotations),
        }
    }
}

impl Flaw {
    pub(super) fn report(&self, origin: &Origin, object: &str) -> Problem {
        let (field, message) = (self.field.as_str(), self.message.as_str());
        Problem::new(origin, object, field, message, self.cure)
    }
}

impl From<core::Service> for ServiceObject {
    fn from(service: core::Service) -> Self {
        let core::Service {
            metadata,
            spec,
            status,
        } = service;
        let spec = spec.unwrap_or_default();
        let mut flaws = Vec::new();
        let cluster_ips = match spec.type_.as_deref() {
            Some("ExternalName") => Vec::new(),
            _ => cluster_ips(&spec, &mut flaws),
        };
        let external_ips = match cluster_ips.is_empty() {
            // kube-proxy passes over those of a headless service too (`ShouldSkipService`).
            true => Vec::new(),
            false => external_ips(&spec, status.as_ref(), &mut flaws),
        };
        let affinity = affinity(&spec, &mut flaws);
        let ports = spec.ports.into_iter().flatten().enumerate();
        let ports = ports.map(|(i, port)| ServicePort::read(i, port, &mut flaws));
        let ports = ports.collect();
        let selector = spec.selector.into_iter().flatten();
        Self {
            meta: metadata.into(),
            selector: Labels(selector.map(|(k, v)| (k.into(), v.into())).collect()),
            ports,
            cluster_ips: cluster_ips.into(),
            external_ips: external_ips.into(),
            affinity,
            include_unready: spec.publish_not_ready_addresses == Some(true),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            flaws,
        }
    }
}

impl ServicePort {
    fn read(i: usize, port: core::ServicePort, flaws: &mut Vec<Flaw>) -> Self {
        let is_tcp = is_tcp(port.protocol.as_deref());
        if is_tcp && port_number(port.port).is_none() {
            flaws.push(Flaw {
                field: format!("spec.ports[{i}].port"),
                message: format!("{} is not a TCP port", port.port),
                cure: "write a number from 1 to 65535",
            });
        }
        let target = match port.target_port {
            None => Some(port.port),
            Some(IntOrString::Int(number)) => Some(number),
            Some(IntOrString::String(text)) => text.parse::<u16>().ok().map(i32::from),
        };
        Self {
            name: port.name.unwrap_or_default().into(),
            number: port.port,
            is_tcp,
            target,
        }
    }
}

fn cluster_ips(spec: &core::ServiceSpec, flaws: &mut Vec<Flaw>) -> Vec<IpAddr> {
    let single = spec.cluster_ip.iter();
    let single = single.map(|ip| ("spec.clusterIP".to_owned(), ip));
    let several = spec.cluster_ips.iter().flatten().enumerate();
    let several = several.map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let given = single.chain(several);
    let given = given.filter(|(_, text)| !text.is_empty() && *text != "None");
    addresses(given, flaws)
}

/// The addresses outside the cluster that are the service's inside it too.
fn external_ips(
    spec: &core::ServiceSpec,
    status: Option<&core::ServiceStatus>,
    flaws: &mut Vec<Flaw>,
) -> Vec<IpAddr> {
    let external = spec.external_ips.iter().flatten().enumerate();
    let external = external.map(|(i, ip)| (format!("spec.externalIPs[{i}]"), ip));
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let ingress = ingress.into_iter().flatten().enumerate();
    let ingress = ingress
        // With `Proxy`, the load balancer is to see the connection.
        .filter(|(_, it)| it.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|(i, it)| {
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            Some((field, it.ip.as_ref()?))
        });
    addresses(external.chain(ingress), flaws)
}

fn addresses<'a>(
    given: impl Iterator<Item = (String, &'a String)>,
    flaws: &mut Vec<Flaw>,
) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for (field, text) in given {
        match address::parse(text) {
            Ok(ip) => ips.push(ip),
            Err(message) => flaws.push(Flaw {
                field,
                message,
                cure: "correct it; until then the service is not reached there",
            }),
        }
    }
    ips.sort();
    ips.dedup();
    ips
}

fn affinity(spec: &core::ServiceSpec, flaws: &mut Vec<Flaw>) -> Option<u32> {
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
        flaws.push(Flaw {
            field: "spec.sessionAffinityConfig.clientIP.timeoutSeconds".to_owned(),
            message: format!(
                "{seconds} is not a number from 1 to {AFFINITY_MAX}; {usable} is used"
            ),
            cure: "write a number in that range",
        });
    }
    Some(usable.unsigned_abs())
}

impl From<discovery::EndpointSlice> for EndpointSlice {
    fn from(mut slice: discovery::EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_mut();
        let service = labels.and_then(|labels| labels.remove(SERVICE_NAME_LABEL));
        let mut flaws = Vec::new();
        let endpoints = match slice.address_type.as_str() {
            "FQDN" => Vec::new(),
            _ => slice.endpoints.unwrap_or_default(),
        };
        let endpoints = endpoints.into_iter().enumerate();
        let endpoints = endpoints.filter_map(|(i, it)| SliceEndpoint::read(i, it, &mut flaws));
        let endpoints = endpoints.collect();
        let ports = slice.ports.into_iter().flatten().map(|port| SlicePort {
            is_tcp: is_tcp(port.protocol.as_deref()),
            name: port.name.unwrap_or_default().into(),
            number: port.port,
        });
        Self {
            meta: slice.metadata.into(),
            service: service.map(Arc::from),
            ports: ports.collect(),
            endpoints,
            flaws,
        }
    }
}

impl SliceEndpoint {
    fn read(i: usize, endpoint: discovery::Endpoint, flaws: &mut Vec<Flaw>) -> Option<Self> {
        let address = match address::parse(endpoint.addresses.first()?) {
            Ok(address) => address,
            Err(message) => {
                flaws.push(Flaw {
                    field: format!("endpoints[{i}].addresses[0]"),
                    message,
                    cure: "correct it; until then this endpoint is left out",
                });
                return None;
            }
        };
        let conditions = endpoint.conditions.unwrap_or_default();
        Some(Self {
            address,
            node: endpoint.node_name.map(Arc::from),
            hints: endpoint.hints.and_then(Hints::read),
            ready: conditions.ready,
            serving: conditions.serving,
            terminating: conditions.terminating,
        })
    }
}

impl Hints {
    fn read(hints: discovery::EndpointHints) -> Option<Box<Self>> {
        let nodes = hints.for_nodes.into_iter().flatten();
        let zones = hints.for_zones.into_iter().flatten();
        let hints = Self {
            nodes: nodes.map(|it| it.name.into()).collect(),
            zones: zones.map(|it| it.name.into()).collect(),
        };
        let some = !hints.nodes.is_empty() || !hints.zones.is_empty();
        some.then(|| Box::new(hints))
    }
}

impl ServiceObject {
    /// Lets `text` choose the copy of each text that many of them have.
    pub(crate) fn share(&mut self, mut text: impl FnMut(&str) -> Arc<str>) {
        self.meta.namespace = text(&self.meta.namespace);
        for port in &mut self.ports {
            port.name = text(&port.name);
        }
    }
}

impl EndpointSlice {
    /// Lets `text` choose the copy of each text that many of them have.
    pub(crate) fn share(&mut self, mut text: impl FnMut(&str) -> Arc<str>) {
        self.meta.namespace = text(&self.meta.namespace);
        for port in &mut self.ports {
            port.name = text(&port.name);
        }
        for endpoint in &mut self.endpoints {
            let hints = endpoint.hints.iter_mut();
            let hints = hints.flat_map(|it| it.nodes.iter_mut().chain(&mut it.zones));
            for name in endpoint.node.iter_mut().chain(hints) {
                *name = text(name);
            }
        }
    }
}

/// Kubernetes takes a port without a protocol for TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}
