//! The conversion as a whole, from objects to a [`World`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::keys::Keys;
use super::network_policies::{self, NetworkPolicies};
use super::object::{Objects, Origin, Sourced, Unenforced, key, name};
use super::problem::Problem;
use super::ranges::ClusterRanges;
use super::world::{Owner, World};
use super::{keys, pods, policies, services, settings};

/// What [`build()`] made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The new generation.
    pub world: World,
    /// Everything that is wrong, in order of file and object.
    pub problems: Vec<Problem>,
    /// False when a pod could not be used as written and had no earlier form to
    /// keep: that it is absent or not to be enrolled then proves nothing.
    pub complete: bool,
    /// False when a pod that is to be enrolled has no known place on the node: what
    /// an earlier agent enrolled and nobody names may be this pod. Implied by a
    /// conversion that is not complete.
    pub all_found: bool,
}

/// Makes the world as the agent of `node` sees it.
///
/// `previous` is the generation before, from which pods that have become unusable
/// or contested keep their form. The order of `sources` does not matter.
pub fn build<'a>(
    sources: impl IntoIterator<Item = &'a Objects>,
    node: &str,
    previous: Option<&World>,
) -> Built {
    let sources: Vec<&Objects> = sources.into_iter().collect();
    let mut problems = Vec::new();

    let (mut mesh, mesh_origin) = settings::settings(&sources, previous, &mut problems);
    let scope = pods::Scope {
        mesh: &mesh,
        node,
        namespaces: namespaces(&sources, &mut problems),
        previous,
    };
    let pods = pods::workloads(&sources, &scope, &mut problems);

    let mut owners = services::Owners::default();
    // Nearly every pod has one address, and a service too.
    let services = sources.iter().map(|objects| objects.services.len());
    let expected = pods.workloads.len() + services.sum::<usize>();
    owners.by_ip.reserve(expected);
    for workload in &pods.workloads {
        let claims = workload.addresses.iter();
        owners
            .by_ip
            .extend(claims.map(|ip| (*ip, Owner::Workload(workload.clone()))));
    }
    let disputed = pods.disputed.iter();
    owners
        .by_ip
        .extend(disputed.map(|ip| (*ip, Owner::Disputed)));
    let decided = pods.decided.iter();
    let decided = decided.map(|(ip, i)| (*ip, Owner::Workload(Arc::clone(&pods.workloads[*i]))));
    owners.by_ip.extend(decided);
    let services = services::services(&sources, node, previous, &mut owners, &mut problems);

    let policies = policies::policies(&sources, &mesh, &pods.workloads, previous, &mut problems);
    mesh.inbound_mode = policies.mesh_mode().mode;

    let cluster_ips = services.iter().flat_map(|it| &it.cluster_ips).copied();
    let ranges = ClusterRanges::new(&mesh.ranges.blocks, &sources, cluster_ips);
    let complete = pods.complete && mesh.ranges.is_complete;

    let network_policies = NetworkPolicies::new(&sources);
    let local = pods.workloads.iter();
    let local = local.filter(|it| it.meshed && *it.node == *node);
    network_policies::report(&network_policies, local, &mut problems);

    report_unenforced(&sources, &mut problems);
    report_misplaced_keys(&sources, &mut problems);
    problems.sort();
    problems.dedup();
    Built {
        world: World {
            mesh,
            mesh_origin,
            workloads: pods.workloads,
            made_of: pods.made_of,
            basis: Some(pods.basis),
            services,
            owners,
            policies: Arc::new(policies),
            ranges,
            network_policies,
        },
        problems,
        complete,
        all_found: pods.all_found,
    }
}

/// The namespaces, and whether their pods take part unless they opt out.
fn namespaces<'a>(sources: &[&'a Objects], problems: &mut Vec<Problem>) -> BTreeMap<&'a str, bool> {
    let all = sources.iter().flat_map(|objects| &objects.namespaces);
    let owned = |ns: &Namespace| name(&ns.metadata).to_owned();
    let by_name = unique(all, "Namespace", |ns| name(&ns.metadata), owned, problems);
    let mut namespaces = BTreeMap::new();
    for namespace in by_name {
        let meta = &namespace.object.metadata;
        let object = format!("Namespace {}", name(meta));
        keys::check(meta, &keys::NAMESPACE, &namespace.origin, &object, problems);
        let asked = keys::membership(meta, &namespace.origin, &object, problems);
        namespaces.insert(name(meta), asked == Some(true));
    }
    namespaces
}

/// Objects of one kind by key, ordered by it. Of two with one key the first by file
/// and place counts; the others, and those without a name, are reported.
pub(super) fn unique<'a, T: 'a>(
    objects: impl Iterator<Item = &'a Sourced<T>>,
    kind: &str,
    name: impl Fn(&T) -> &str,
    key: impl Fn(&T) -> String,
    problems: &mut Vec<Problem>,
) -> Vec<&'a Sourced<T>> {
    let mut ordered: Vec<&Sourced<T>> = objects.collect();
    ordered.sort_by_key(|object| &object.origin);
    let mut found: BTreeMap<String, &Sourced<T>> = BTreeMap::new();
    for object in ordered {
        if name(&object.object).is_empty() {
            problems.push(nameless(&object.origin, kind));
            continue;
        }
        let key = key(&object.object);
        if let Some(first) = found.get(&key) {
            problems.push(Problem::new(
                &object.origin,
                format!("{kind} {key}"),
                "metadata.name",
                format!(
                    "it is already described in {}; this one has no effect",
                    first.origin
                ),
                "keep one of them",
            ));
        } else {
            found.insert(key, object);
        }
    }
    found.into_values().collect()
}

/// The problem of an object without a name.
pub(super) fn nameless(origin: &Origin, kind: &str) -> Problem {
    Problem::new(
        origin,
        kind,
        "metadata.name",
        format!(
            "object {} of the file has no name and has no effect",
            origin.document
        ),
        "name it",
    )
}

fn report_unenforced(sources: &[&Objects], problems: &mut Vec<Problem>) {
    for Sourced { object, origin } in sources.iter().flat_map(|objects| &objects.unenforced) {
        let Unenforced {
            kind,
            namespace,
            name,
        } = object;
        problems.push(
            Problem::new(
                origin,
                format!("{kind} {namespace}/{name}"),
                "kind",
                format!("{kind} is not enforced by this version of Isthmus: it has no effect"),
                "do not rely on it; remove it, or use a version that enforces it",
            )
            .into_warning(),
        );
    }
}

/// Keys of ours on kinds that have none.
fn report_misplaced_keys(sources: &[&Objects], problems: &mut Vec<Problem>) {
    let mut check = |keys: Keys<'_>, key: String, origin: &Origin, kind: &str| {
        let object = format!("{kind} {key}");
        keys::check(keys, &keys::NONE, origin, &object, problems);
    };
    for objects in sources {
        for Sourced { object, origin } in &objects.services {
            check(object.meta.keys(), object.meta.key(), origin, "Service");
        }
        for Sourced { object, origin } in &objects.endpoint_slices {
            check(
                object.meta.keys(),
                object.meta.key(),
                origin,
                "EndpointSlice",
            );
        }
        let mut check = |meta: &ObjectMeta, origin: &Origin, kind: &str| {
            check(meta.into(), key(meta), origin, kind);
        };
        for it in &objects.peer_authentications {
            check(&it.object.metadata, &it.origin, "PeerAuthentication");
        }
        for it in &objects.authorization_policies {
            check(&it.object.metadata, &it.origin, "AuthorizationPolicy");
        }
        for it in &objects.mesh_configs {
            check(&it.object.metadata, &it.origin, "MeshConfig");
        }
    }
}
