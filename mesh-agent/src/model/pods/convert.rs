//! One pod, as one workload. Says what cannot be used and why; what follows from
//! it is decided by the caller, the parent module.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::object::{Origin, Sourced, name, namespace};
use super::super::problem::Problem;
use super::super::workload::{LocalPod, Workload};
use super::super::{address, keys};
use super::{Scope, names};
use crate::identity::{SpiffeId, TrustDomain};

/// The field of [`keys::TRUST_DOMAIN`].
const FOREIGN: &str = "metadata.annotations[isthmus.dev/trust-domain]";

/// What one pod came to.
pub(super) enum Draft {
    Good(Workload),
    /// Known as a destination, but this node cannot enrol it as it is written.
    NotEnrollable(Workload),
    /// Without an identity or an address to go by; the problem is reported.
    Unusable,
    /// It has ended, and its address may be another's by now.
    Finished,
}

/// Converts a pod that is described once.
pub(super) fn convert(
    pod: &Sourced<Pod>,
    uid: &str,
    scope: &Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Draft {
    let Sourced { object, origin } = pod;
    let (meta, spec) = (&object.metadata, object.spec.as_ref());
    if is_finished(object) {
        return Draft::Finished;
    }
    let report = &mut Reporter {
        origin,
        object: format!("Pod {uid}"),
        problems,
    };
    keys::check(meta, &keys::POD, origin, &report.object, report.problems);
    let asked = keys::membership(meta, origin, &report.object, report.problems);

    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let meshed = asked.unwrap_or_else(|| scope.meshed_namespaces.contains(namespace(meta)));
    if host_network && asked == Some(true) {
        report.problem(
            "spec.hostNetwork",
            "a pod of the host's network cannot be in the mesh: its connections are the node's",
            "remove hostNetwork or the label",
        );
    }
    let meshed = meshed && !host_network;

    let service_account = spec.and_then(|spec| spec.service_account_name.as_deref());
    let service_account = service_account
        .filter(|it| !it.is_empty())
        .unwrap_or("default");
    let identity = identity(pod, service_account, scope, report);
    let addresses = addresses(object, report);
    let (Some(identity), Some(addresses)) = (identity, addresses) else {
        return Draft::Unusable;
    };
    let tls_names = names::tls_names(annotation(object, keys::TLS_NAMES), report);
    let node = spec
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    let to_enrol = meshed && node == scope.node;
    let foreign = *identity.trust_domain() != scope.mesh.trust_domain;
    if to_enrol && foreign {
        report.problem(
            FOREIGN,
            "the pod is of this node, whose agent has certificates of its own trust domain only",
            "remove it; it is for pods of other meshes",
        );
    }
    let local = if to_enrol && !foreign {
        local_pod(pod, report)
    } else {
        None
    };
    if to_enrol && addresses.is_empty() && phase(object) != Some("Pending") {
        report.problem(
            "status.podIPs",
            "the pod has no address, so its connections cannot be taken over",
            "write the addresses of its network namespace",
        );
    }
    let workload = Workload {
        uid: uid.into(),
        name: name(meta).into(),
        namespace: namespace(meta).into(),
        service_account: service_account.into(),
        node: node.into(),
        identity,
        tls_names,
        addresses: if host_network { Vec::new() } else { addresses },
        meshed,
        labels: Arc::new(meta.labels.clone().unwrap_or_default()),
        app: label(object, &["app.kubernetes.io/name", "app"]),
        version: label(object, &["app.kubernetes.io/version", "version"]),
        local,
        origin: origin.clone(),
    };
    if to_enrol && workload.local.is_none() {
        Draft::NotEnrollable(workload)
    } else {
        Draft::Good(workload)
    }
}

/// Problems of one pod.
pub(super) struct Reporter<'a> {
    origin: &'a Origin,
    object: String,
    problems: &'a mut Vec<Problem>,
}

impl Reporter<'_> {
    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>, cure: &str) {
        let object = self.object.as_str();
        self.problems
            .push(Problem::new(self.origin, object, field, message, cure));
    }
}

/// Ended for good, or being deleted and already without an address.
fn is_finished(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let has_ip = status.is_some_and(|status| {
        status.pod_ip.is_some() || status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty())
    });
    let deleted = pod.metadata.deletion_timestamp.is_some();
    matches!(phase(pod), Some("Succeeded" | "Failed")) || (deleted && !has_ip)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn identity(
    pod: &Sourced<Pod>,
    service_account: &str,
    scope: &Scope<'_>,
    report: &mut Reporter<'_>,
) -> Option<SpiffeId> {
    let namespace = namespace(&pod.object.metadata);
    let trust_domain = trust_domain(&pod.object, scope, report)?;
    let error = match SpiffeId::new(trust_domain.clone(), namespace, service_account) {
        Ok(identity) => return Some(identity),
        Err(error) => error,
    };
    let probe = SpiffeId::new(trust_domain, namespace, "default");
    let field = match probe {
        Ok(_) => "spec.serviceAccountName",
        Err(_) => "metadata.namespace",
    };
    report.problem(
        field,
        error.to_string(),
        "correct it; until then the pod has no identity",
    );
    None
}

/// The mesh's own trust domain, or the one that the pod says. One that nobody
/// vouches for is kept, so that connections to the pod are refused for that reason
/// and not taken for connections to a workload of ours.
fn trust_domain(pod: &Pod, scope: &Scope<'_>, report: &mut Reporter<'_>) -> Option<TrustDomain> {
    let Some(text) = annotation(pod, keys::TRUST_DOMAIN) else {
        return Some(scope.mesh.trust_domain.clone());
    };
    match TrustDomain::new(text) {
        Ok(domain) => {
            if !scope.mesh.trusts(&domain) {
                report.problem(
                    FOREIGN,
                    format!(
                        "nothing vouches for trust domain {domain}, so the pod cannot be reached"
                    ),
                    "add its roots to spec.caCertificates of the MeshConfig, or correct the name",
                );
            }
            Some(domain)
        }
        Err(error) => {
            let cure = "correct it; until then the pod has no identity";
            report.problem(FOREIGN, error.to_string(), cure);
            None
        }
    }
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// The addresses of a pod, each with its field.
fn address_fields(pod: &Pod) -> impl Iterator<Item = (String, &str)> {
    let status = pod.status.as_ref();
    let single = status.and_then(|status| status.pod_ip.as_deref());
    let single = single.map(|ip| ("status.podIP".to_owned(), ip));
    let several = status.and_then(|status| status.pod_ips.as_ref());
    let several = several.into_iter().flatten().enumerate();
    let several = several.map(|(i, it)| (format!("status.podIPs[{i}].ip"), it.ip.as_str()));
    several.chain(single)
}

/// All addresses, or `None` if one of them is not an address.
fn addresses(pod: &Pod, report: &mut Reporter<'_>) -> Option<Vec<IpAddr>> {
    let mut addresses = BTreeSet::new();
    let mut all_good = true;
    for (field, text) in address_fields(pod) {
        match address::parse(text) {
            Ok(ip) => {
                addresses.insert(ip);
            }
            Err(message) => {
                all_good = false;
                report.problem(&field, message, "write the address that the pod has");
            }
        }
    }
    all_good.then(|| addresses.into_iter().collect())
}

/// What can be made out of a pod's addresses, however broken the rest of it is.
pub(super) fn readable_addresses(pod: &Sourced<Pod>) -> impl Iterator<Item = IpAddr> {
    let spec = pod.object.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let fields = address_fields(&pod.object).filter(move |_| !host_network);
    fields.filter_map(|(_, text)| address::parse(text).ok())
}

/// The two paths by which the kernel knows the pod; `None` if one is missing.
fn local_pod(pod: &Sourced<Pod>, report: &mut Reporter<'_>) -> Option<LocalPod> {
    let mut path = |annotation: &str, example: &str| {
        let value = self::annotation(&pod.object, annotation).map(PathBuf::from);
        let message = match &value {
            Some(path) if path.is_absolute() => return value,
            Some(path) => format!("{:?} is not an absolute path", path.display().to_string()),
            None => "the pod is of this node and in the mesh, but this is missing".to_owned(),
        };
        let field = format!("metadata.annotations[{annotation}]");
        report.problem(&field, message, &format!("write a path, such as {example}"));
        None
    };
    let netns = path(keys::NETNS, "/run/netns/web");
    let cgroup = path(keys::CGROUP, "/sys/fs/cgroup/pods/web");
    Some(LocalPod {
        netns: netns?,
        cgroup: cgroup?,
    })
}

fn label(pod: &Pod, keys: &[&str]) -> Option<Arc<str>> {
    let labels = pod.metadata.labels.as_ref()?;
    let value = keys.iter().find_map(|key| labels.get(*key))?;
    Some(value.as_str().into())
}
