//! One pod, as one workload. Says what cannot be used and why; what follows from
//! it is decided by the caller, the parent module.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::keys;
use super::super::object::{Origin, Sourced};
use super::super::problem::Problem;
use super::super::workload::{LocalPod, Workload};
use super::pod::{Place, Pod, Stage};
use super::{Scope, names};
use crate::identity::{SpiffeId, TrustDomain};

/// The field of [`keys::TRUST_DOMAIN`].
const FOREIGN: &str = "metadata.annotations[isthmus.dev/trust-domain]";

/// What one pod came to.
pub(super) enum Draft {
    Good(Arc<Workload>),
    /// Known as a destination, but this node cannot enrol it as it is written.
    NotEnrollable(Arc<Workload>),
    /// Without an identity or an address to go by; the problem is reported.
    Unusable,
    /// It has ended, and its address may be another's by now.
    Finished,
}

/// Converts a pod that is described once. `was` is what a pod of its name was before.
pub(super) fn convert(
    pod: &Sourced<Arc<Pod>>,
    uid: &str,
    was: Option<&Arc<Workload>>,
    scope: &Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Draft {
    let Sourced { object, origin } = pod;
    if object.stage == Stage::Finished {
        return Draft::Finished;
    }
    let report = &mut Reporter {
        origin,
        object: format!("Pod {uid}"),
        problems,
    };
    let in_cluster = matches!(object.place, Place::Seen(_));
    if in_cluster {
        keys::check_in_cluster(object.keys(), origin, &report.object, report.problems);
    } else {
        keys::check(
            object.keys(),
            &keys::POD,
            origin,
            &report.object,
            report.problems,
        );
    }
    let asked = keys::membership(object.keys(), origin, &report.object, report.problems);

    let host_network = object.host_network;
    let known = asked.or_else(|| scope.namespaces.get(&*object.namespace).copied());
    // That its Namespace object is gone does not say that the pod leaves the mesh.
    let was_meshed = || was.is_some_and(|was| was.meshed && was.kube_uid == object.kube_uid);
    let meshed = known.unwrap_or_else(was_meshed);
    if host_network && asked == Some(true) {
        report.problem(
            "spec.hostNetwork",
            "a pod of the host's network cannot be in the mesh: its connections are the node's",
            "remove hostNetwork or the label",
        );
    }
    let meshed = meshed && !host_network;

    let identity = identity(object, scope, report);
    for bad in &object.bad_addresses {
        report.problem(
            &bad.field,
            &*bad.message,
            "write the address that the pod has",
        );
    }
    let Some(identity) = identity.filter(|_| object.bad_addresses.is_empty()) else {
        return Draft::Unusable;
    };
    let tls_names = names::tls_names(annotation(object, keys::TLS_NAMES), report);
    let to_enrol = meshed && *object.node == *scope.node;
    let foreign = *identity.trust_domain() != scope.mesh.trust_domain;
    if to_enrol && foreign {
        report.problem(
            FOREIGN,
            "the pod is of this node, whose agent has certificates of its own trust domain only",
            "remove it; it is for pods of other meshes",
        );
    }
    let local = if to_enrol && !foreign {
        local_pod(object, report)
    } else {
        None
    };
    let addresses = match &object.place {
        Place::Seen(Some(seen)) if object.addresses.is_empty() => &seen.addresses,
        _ => &object.addresses,
    };
    if to_enrol && addresses.is_empty() && !has_no_sandbox(object) {
        report.problem(
            "status.podIPs",
            "the pod has no address, so its connections cannot be taken over",
            "write the addresses of its network namespace",
        );
    }
    let workload = Arc::new(Workload {
        uid: uid.into(),
        kube_uid: object.kube_uid.clone(),
        name: Arc::clone(&object.name),
        namespace: Arc::clone(&object.namespace),
        service_account: Arc::clone(&object.service_account),
        node: Arc::clone(&object.node),
        identity,
        tls_names,
        addresses: match host_network {
            true => Vec::new(),
            false => addresses.clone(),
        },
        meshed,
        membership_known: known.is_some() || host_network,
        labels: Arc::clone(&object.labels),
        app: label(object, &["app.kubernetes.io/name", "app"]),
        version: label(object, &["app.kubernetes.io/version", "version"]),
        local,
        hbone_ports: object.hbone_ports.clone(),
        unmeshed_at: (!meshed && *object.node == *scope.node)
            .then(|| declared_place(object))
            .flatten()
            .map(Box::new),
        origin: origin.clone(),
    });
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

fn identity(pod: &Pod, scope: &Scope<'_>, report: &mut Reporter<'_>) -> Option<SpiffeId> {
    let (namespace, account) = (&pod.namespace, &pod.service_account);
    let trust_domain = trust_domain(pod, scope, report)?;
    let shared = (Arc::clone(namespace), Arc::clone(account));
    let forms = &scope.mesh.id_forms;
    let identity = forms.identity(trust_domain.clone(), shared.0, shared.1, &pod.name);
    let error = match identity {
        Ok(identity) => return Some(identity),
        Err(error) => error,
    };
    let probe = SpiffeId::new(trust_domain, namespace, "default");
    let field = match probe {
        Ok(probe) if SpiffeId::new(probe.trust_domain().clone(), namespace, account).is_ok() => {
            "metadata.name"
        }
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

/// An annotation, where annotations count.
fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    match pod.place {
        Place::Annotated => pod.annotations.get(key).map(String::as_str),
        Place::Seen(_) => None,
    }
}

/// What can be made out of a pod's addresses, however broken the rest of it is.
pub(super) fn readable_addresses(pod: &Sourced<Arc<Pod>>) -> impl Iterator<Item = IpAddr> {
    let addresses = pod.object.addresses.iter().copied();
    addresses.filter(|_| !pod.object.host_network)
}

/// The two paths by which the kernel knows the pod; `None` if one is missing.
fn local_pod(pod: &Pod, report: &mut Reporter<'_>) -> Option<LocalPod> {
    match &pod.place {
        Place::Annotated => annotated(pod, report),
        Place::Seen(Some(seen)) => Some(seen.local.clone()),
        Place::Seen(None) => {
            if !has_no_sandbox(pod) {
                report.problem(
                    "metadata.uid",
                    "no control group and network namespace of this pod are found on the node, so it is not enrolled",
                    "give the agent the node's /proc and the kubelet's cgroups (hostPID, CAP_SYS_PTRACE, --pods-cgroup)",
                );
            }
            None
        }
    }
}

/// Whether nothing runs of the pod, so that nothing is wrong when it is not found. Its sandbox
/// is made before its containers are. It may be made anew, as after a reboot of the node: then
/// the kubelet says `Running` of the pod, with no address.
fn has_no_sandbox(pod: &Pod) -> bool {
    let gone = matches!(pod.place, Place::Seen(None)) && pod.addresses.is_empty();
    gone || pod.stage == Stage::Pending
}

/// Where a pod that is not in the mesh says that it is; nothing is wrong when it does not.
fn declared_place(pod: &Pod) -> Option<LocalPod> {
    let path = |key| annotation(pod, key).map(PathBuf::from);
    Some(LocalPod {
        netns: path(keys::NETNS)?,
        cgroup: path(keys::CGROUP)?,
    })
}

fn annotated(pod: &Pod, report: &mut Reporter<'_>) -> Option<LocalPod> {
    let mut path = |annotation: &str, example: &str| {
        let value = self::annotation(pod, annotation).map(PathBuf::from);
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
    let value = keys.iter().find_map(|key| pod.labels.get(*key))?;
    Some(value.as_str().into())
}
