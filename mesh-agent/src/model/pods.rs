//! From pods to workloads. Called by [`build`](super::build()).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::build::nameless;
use super::object::{Objects, Origin, Sourced, key, name, namespace};
use super::problem::Problem;
use super::workload::{LocalPod, Workload};
use super::world::World;
use super::{address, keys};
use crate::identity::{SpiffeId, TrustDomain};

/// What holds for all pods of one conversion.
pub(super) struct Scope<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    /// The node whose pods are local.
    pub(super) node: &'a str,
    pub(super) meshed_namespaces: BTreeSet<&'a str>,
    pub(super) previous: Option<&'a World>,
}

/// What became of the pods.
pub(super) struct Pods {
    /// Ordered by uid.
    pub(super) workloads: Vec<Arc<Workload>>,
    /// Addresses of pods that cannot be used, so that nobody else is taken for them.
    pub(super) unusable: BTreeSet<IpAddr>,
    /// See [`Built::complete`](super::Built).
    pub(super) complete: bool,
}

pub(super) fn workloads(
    sources: &[&Objects],
    scope: &Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Pods {
    let mut drafts = Vec::new();
    let mut unusable = BTreeSet::new();
    let mut complete = true;
    for (uid, pods) in by_uid(sources, problems) {
        let draft = match pods[..] {
            [pod] => convert(pod, &uid, scope, problems),
            _ => {
                problems.push(described_twice(&uid, &pods));
                Draft::Unusable
            }
        };
        let kept = || previous_form(&uid, scope);
        match draft {
            Draft::Finished => {}
            Draft::Good(workload) => drafts.push(workload),
            Draft::NotEnrollable(workload) => {
                let kept = kept();
                complete &= kept.is_some();
                drafts.push(kept.unwrap_or(workload));
            }
            Draft::Unusable => match kept() {
                Some(kept) => drafts.push(kept),
                None => {
                    complete = false;
                    unusable.extend(pods.iter().flat_map(|pod| readable_addresses(pod)));
                }
            },
        }
    }
    complete &= settle_disputes(&mut drafts, scope, problems);
    let workloads = drafts.into_iter().map(|draft| share(draft, scope));
    Pods {
        workloads: workloads.collect(),
        unusable,
        complete,
    }
}

/// What one pod came to.
enum Draft {
    Good(Workload),
    /// Known as a destination, but this node cannot enrol it as it is written.
    NotEnrollable(Workload),
    /// Without an identity or an address to go by; the problem is reported.
    Unusable,
    /// It has ended, and its address may be another's by now.
    Finished,
}

fn by_uid<'a>(
    sources: &[&'a Objects],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Vec<&'a Sourced<Pod>>> {
    let mut by_uid: BTreeMap<String, Vec<&Sourced<Pod>>> = BTreeMap::new();
    for pod in sources.iter().flat_map(|objects| &objects.pods) {
        if name(&pod.object.metadata).is_empty() {
            problems.push(nameless(&pod.origin, "Pod"));
        } else {
            by_uid
                .entry(key(&pod.object.metadata))
                .or_default()
                .push(pod);
        }
    }
    for pods in by_uid.values_mut() {
        pods.sort_by_key(|pod| &pod.origin);
    }
    by_uid
}

fn described_twice(uid: &str, pods: &[&Sourced<Pod>]) -> Problem {
    let places: Vec<String> = pods.iter().map(|pod| pod.origin.to_string()).collect();
    Problem::new(
        &pods[0].origin,
        format!("Pod {uid}"),
        "metadata.name",
        format!("it is described more than once: {}", places.join(", ")),
        "keep one description; until then none of them counts",
    )
}

fn convert(pod: &Sourced<Pod>, uid: &str, scope: &Scope<'_>, problems: &mut Vec<Problem>) -> Draft {
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
    let node = spec
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    let to_enrol = meshed && node == scope.node;
    let local = if to_enrol {
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
        addresses: if host_network { Vec::new() } else { addresses },
        meshed,
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
struct Reporter<'a> {
    origin: &'a Origin,
    object: String,
    problems: &'a mut Vec<Problem>,
}

impl Reporter<'_> {
    fn problem(&mut self, field: &str, message: impl Into<String>, cure: &str) {
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
    let error = match SpiffeId::new(scope.trust_domain.clone(), namespace, service_account) {
        Ok(identity) => return Some(identity),
        Err(error) => error,
    };
    let probe = SpiffeId::new(scope.trust_domain.clone(), namespace, "default");
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

fn readable_addresses(pod: &Sourced<Pod>) -> impl Iterator<Item = IpAddr> {
    let spec = pod.object.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let fields = address_fields(&pod.object).filter(move |_| !host_network);
    fields.filter_map(|(_, text)| address::parse(text).ok())
}

/// The two paths by which the kernel knows the pod; `None` if one is missing.
fn local_pod(pod: &Sourced<Pod>, report: &mut Reporter<'_>) -> Option<LocalPod> {
    let mut path = |annotation: &str, example: &str| {
        let annotations = pod.object.metadata.annotations.as_ref();
        let value = annotations
            .and_then(|all| all.get(annotation))
            .map(PathBuf::from);
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

/// The form in which the previous generation had the pod, unless its identity
/// would now be of another trust domain.
fn previous_form(uid: &str, scope: &Scope<'_>) -> Option<Workload> {
    let previous = scope.previous?.workload(uid)?;
    let same_domain = previous.identity.trust_domain() == scope.trust_domain;
    same_domain.then(|| Workload::clone(previous))
}

/// Finds what two pods claim at once: an address, a network namespace, a cgroup.
/// Whoever was enrolled with it stays so; nobody is newly enrolled with it. False
/// if somebody was kept from being enrolled.
fn settle_disputes(
    drafts: &mut [Workload],
    scope: &Scope<'_>,
    problems: &mut Vec<Problem>,
) -> bool {
    let mut withheld = BTreeSet::new();
    for (claim, claimants) in claims(drafts) {
        if claimants.len() < 2 {
            continue;
        }
        problems.push(dispute(&claim, &claimants, drafts));
        for i in claimants {
            let enrolled = scope
                .previous
                .and_then(|world| world.workload(&drafts[i].uid));
            if !enrolled.is_some_and(|it| had(it, &drafts[i], &claim)) {
                withheld.insert(i);
            }
        }
    }
    let mut all_enrolled = true;
    for i in withheld {
        all_enrolled &= drafts[i].local.take().is_none();
    }
    all_enrolled
}

/// What only one pod can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Address(IpAddr),
    Netns(PathBuf),
    Cgroup(PathBuf),
}

fn claims(drafts: &[Workload]) -> BTreeMap<Claim, Vec<usize>> {
    let mut claims: BTreeMap<Claim, Vec<usize>> = BTreeMap::new();
    for (i, draft) in drafts.iter().enumerate() {
        let addresses = draft.addresses.iter().map(|ip| Claim::Address(*ip));
        let paths = draft.local.iter().flat_map(|local| {
            let netns = Claim::Netns(local.netns.clone());
            [netns, Claim::Cgroup(local.cgroup.clone())]
        });
        for claim in addresses.chain(paths) {
            claims.entry(claim).or_default().push(i);
        }
    }
    claims
}

/// Whether `before` was enrolled as what `now` is, with the thing in dispute.
fn had(before: &Workload, now: &Workload, claim: &Claim) -> bool {
    let same = before.identity == now.identity && before.local == now.local;
    let had_address = match claim {
        Claim::Address(ip) => before.addresses.contains(ip),
        Claim::Netns(_) | Claim::Cgroup(_) => true,
    };
    same && before.local.is_some() && had_address
}

fn dispute(claim: &Claim, claimants: &[usize], drafts: &[Workload]) -> Problem {
    let mut pods: Vec<&Workload> = claimants.iter().map(|i| &drafts[*i]).collect();
    pods.sort_by(|a, b| a.origin.cmp(&b.origin));
    let field = claim.field();
    let others = pods[1..].iter().map(|pod| {
        let Origin { file, document } = &pod.origin;
        format!(
            "Pod {} ({field} in {}, object {document})",
            pod.uid,
            file.display()
        )
    });
    let others: Vec<String> = others.collect();
    Problem::new(
        &pods[0].origin,
        format!("Pod {}", pods[0].uid),
        field,
        format!("{claim} is also that of {}", others.join(", ")),
        claim.cure(),
    )
}

impl Claim {
    fn field(&self) -> String {
        match self {
            Self::Address(_) => "status.podIPs".to_owned(),
            Self::Netns(_) => format!("metadata.annotations[{}]", keys::NETNS),
            Self::Cgroup(_) => format!("metadata.annotations[{}]", keys::CGROUP),
        }
    }

    fn cure(&self) -> &'static str {
        match self {
            Self::Address(_) => {
                "give each pod its own; until then connections to it are refused and no pod is newly enrolled with it"
            }
            Self::Netns(_) | Self::Cgroup(_) => {
                "give each pod its own; until then no pod is newly enrolled with it"
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Netns(path) => write!(f, "network namespace {}", path.display()),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
        }
    }
}

/// The previous generation's `Arc` where nothing changed.
fn share(draft: Workload, scope: &Scope<'_>) -> Arc<Workload> {
    let previous = scope.previous.and_then(|world| world.workload(&draft.uid));
    match previous {
        Some(previous) if **previous == draft => previous.clone(),
        _ => Arc::new(draft),
    }
}
