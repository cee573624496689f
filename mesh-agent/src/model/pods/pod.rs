//! A pod as the model needs it: a small part of what Kubernetes holds of one, so that a
//! whole cluster's fit into an agent. Made by `config`, from files and from the API.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::super::address;
use super::super::keys::Keys;
use super::super::workload::LocalPod;
use crate::addr::HBONE_PORT;

/// A pod. Texts that many pods have are shared where whoever makes it shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`, empty when absent.
    pub name: Arc<str>,
    /// `metadata.namespace`, `default` when absent.
    pub namespace: Arc<str>,
    /// The UID by which the node's kubelet knows it: `metadata.uid`, but for a pod that
    /// mirrors one of the kubelet's own files that one's.
    pub kube_uid: Option<Arc<str>>,
    /// `metadata.labels`
    pub labels: Arc<BTreeMap<String, String>>,
    /// Those of `metadata.annotations` that are ours.
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`, `default` when absent.
    pub service_account: Arc<str>,
    /// `spec.nodeName`, empty when absent.
    pub node: Arc<str>,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is being deleted: `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.podIPs` and `status.podIP`, canonical and sorted.
    pub addresses: Vec<IpAddr>,
    /// What is written there and is no address of a pod.
    pub bad_addresses: Vec<BadAddress>,
    /// Where the machine has it.
    pub place: Place,
    /// Names of its container ports that are TCP 15008; `None` of nearly all.
    pub hbone_ports: Option<Arc<[Box<str>]>>,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its containers may not all have started: `status.phase` is `Pending`.
    Pending,
    /// In use.
    Running,
    /// Ended for good, or being deleted and already without an address.
    Finished,
}

/// A text in the place of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress {
    /// The field that it is in.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// Who says where a pod's network namespace and cgroup are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The pod's own annotations: whoever writes a folder of configuration rules the node.
    Annotated,
    /// The node, which has it there, or has not found it (yet). The annotations do not
    /// count: whoever may write a pod into a cluster must not choose among the node's
    /// namespaces, nor say who the pod is.
    Seen(Option<Box<Seen>>),
}

/// Where a node has a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its namespace and cgroup.
    pub local: LocalPod,
    /// The addresses that it was given there, for the time until its status has them.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// `<namespace>/<name>`
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The order of [`key`](Self::key), which two pods have in common only if they are one.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let (one, two) = (self.names(), other.names());
        order(one, two)
    }

    /// Namespace and name.
    pub(crate) fn names(&self) -> Names<'_> {
        (&self.namespace, &self.name)
    }

    /// Its labels and annotations.
    pub(in super::super) fn keys(&self) -> Keys<'_> {
        Keys {
            labels: Some(&self.labels),
            annotations: Some(&self.annotations),
        }
    }

    /// One that a folder describes.
    pub(crate) fn of_folder(pod: core::Pod) -> Self {
        let core::Pod {
            metadata,
            spec,
            status,
        } = pod;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let ips = status.pod_ips.unwrap_or_default();
        let (addresses, bad_addresses) = addresses(
            ips.iter().map(|it| it.ip.as_str()),
            status.pod_ip.as_deref(),
        );
        let has_ip = status.pod_ip.is_some() || !ips.is_empty();
        let deleted = metadata.deletion_timestamp.is_some();
        let hbone_ports = hbone_ports(container_ports(&spec));
        let account = spec.service_account_name.filter(|it| !it.is_empty());
        Self {
            name: metadata.name.unwrap_or_default().into(),
            namespace: metadata.namespace.as_deref().unwrap_or("default").into(),
            kube_uid: metadata.uid.map(Arc::from),
            labels: Arc::new(metadata.labels.unwrap_or_default()),
            annotations: ours(metadata.annotations.unwrap_or_default()),
            service_account: account.as_deref().unwrap_or("default").into(),
            node: spec.node_name.unwrap_or_default().into(),
            host_network: spec.host_network == Some(true),
            stage: Stage::of(status.phase.as_deref(), deleted, has_ip),
            terminating: deleted,
            addresses,
            bad_addresses,
            place: Place::Annotated,
            hbone_ports,
        }
    }
}

/// One port of a container.
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) container_port: i32,
    pub(crate) protocol: Option<String>,
}

/// The ports of a pod's containers.
fn container_ports(spec: &core::PodSpec) -> impl Iterator<Item = ContainerPort> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|it| it.ports.iter().flatten());
    ports.map(|it| ContainerPort {
        name: it.name.clone(),
        container_port: it.container_port,
        protocol: it.protocol.clone(),
    })
}

/// The names of a pod's container ports that are TCP 15008.
pub(crate) fn hbone_port_names(pod: &core::Pod) -> Vec<Box<str>> {
    let names = pod
        .spec
        .as_ref()
        .and_then(|spec| hbone_ports(container_ports(spec)));
    names.map_or_else(Vec::new, |names| names.to_vec())
}

/// The names of those ports that are TCP 15008.
pub(crate) fn hbone_ports(ports: impl Iterator<Item = ContainerPort>) -> Option<Arc<[Box<str>]>> {
    let is_tcp = |it: &ContainerPort| it.protocol.as_deref().is_none_or(|it| it == "TCP");
    let is_hbone = |it: &ContainerPort| it.container_port == i32::from(HBONE_PORT) && is_tcp(it);
    let names = ports
        .filter(is_hbone)
        .filter_map(|it| Some(it.name?.into()));
    let names: Vec<Box<str>> = names.collect();
    (!names.is_empty()).then(|| names.into())
}

impl Stage {
    /// As `status.phase` says it, of a pod that is being deleted or not, and has an
    /// address or not.
    pub(crate) fn of(phase: Option<&str>, deleted: bool, has_ip: bool) -> Self {
        match phase {
            Some("Succeeded" | "Failed") => Self::Finished,
            _ if deleted && !has_ip => Self::Finished,
            Some("Pending") => Self::Pending,
            _ => Self::Running,
        }
    }
}

/// Namespace and name.
pub(crate) type Names<'a> = (&'a Arc<str>, &'a Arc<str>);

/// The order of `<namespace>/<name>`, without making that text.
pub(crate) fn order(one: Names<'_>, two: Names<'_>) -> Ordering {
    // Shared texts are equal at a glance.
    if one.0 == two.0 {
        return one.1.cmp(two.1);
    }
    fn bytes<'a>((namespace, name): Names<'a>) -> impl Iterator<Item = u8> + 'a {
        let namespace = namespace.bytes().chain([b'/']);
        namespace.chain(name.bytes())
    }
    bytes(one).cmp(bytes(two))
}

/// The annotations that are ours.
pub(crate) fn ours(annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = annotations.into_iter();
    ours.filter(|(key, _)| super::super::keys::is_ours(key))
        .collect()
}

/// What `status.podIPs` and `status.podIP` hold: addresses, and what is none.
pub(crate) fn addresses<'a>(
    several: impl Iterator<Item = &'a str>,
    single: Option<&'a str>,
) -> (Vec<IpAddr>, Vec<BadAddress>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let several = several.enumerate().map(|(i, text)| (Some(i), text));
    for (i, text) in several.chain(single.map(|text| (None, text))) {
        match address::parse(text) {
            Ok(ip) => good.push(ip),
            Err(message) => {
                let several = |i| format!("status.podIPs[{i}].ip");
                let field = i.map_or_else(|| "status.podIP".to_owned(), several);
                bad.push(BadAddress { field, message });
            }
        }
    }
    good.sort_unstable();
    good.dedup();
    good.shrink_to_fit();
    (good, bad)
}
