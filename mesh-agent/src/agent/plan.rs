//! What a new configuration asks of the node, against what is there: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Workload, World};

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Enrolled pods whose object says that they are not in the mesh, by uid.
    pub(super) release: Vec<Arc<str>>,
    /// Enrolled pods that no object describes any more, by uid: they are closed, and guarded
    /// until their processes have ended.
    pub(super) orphan: Vec<Arc<str>>,
    /// Enrolled pods of which only the description changed.
    pub(super) describe: Vec<Arc<Workload>>,
    /// Pods to enrol. An enrolled one among them is enrolled anew in its place, so
    /// that it is guarded at every moment.
    pub(super) enrol: Vec<Arc<Workload>>,
}

/// Compares the `enrolled` pods with those that `world` wants enrolled here.
pub(super) fn plan(enrolled: &HashMap<Arc<str>, Arc<Workload>>, world: &World) -> Plan {
    let mut plan = Plan::default();
    for (uid, workload) in enrolled {
        match world
            .workload(uid)
            .filter(|now| is_of_one_pod(now, workload))
        {
            Some(now) if now.meshed && now.local.is_some() => {}
            Some(now) if !now.meshed && now.membership_known => {
                plan.release.push(Arc::clone(uid));
            }
            _ => plan.orphan.push(Arc::clone(uid)),
        }
    }
    plan.release.sort();
    plan.orphan.sort();
    for wanted in world
        .workloads()
        .filter(|workload| workload.local.is_some())
    {
        match enrolled.get(&wanted.uid) {
            Some(workload) if same_pod(wanted, workload) => {
                if wanted != workload {
                    plan.describe.push(Arc::clone(wanted));
                }
            }
            _ => plan.enrol.push(Arc::clone(wanted)),
        }
    }
    plan
}

/// Whether both are of one pod of this node: one that was deleted and made again under its name
/// has another UID. Of a folder's pods, mostly nothing but the name is known.
fn is_of_one_pod(one: &Workload, other: &Workload) -> bool {
    let uids = one.kube_uid.as_ref().zip(other.kube_uid.as_ref());
    one.node == other.node && uids.is_none_or(|(one, other)| one == other)
}

/// Whether the two describe one pod, enrolled in one way; labels may differ.
fn same_pod(one: &Workload, other: &Workload) -> bool {
    one.local == other.local
        && one.identity == other.identity
        && one.addresses == other.addresses
        && is_of_one_pod(one, other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_objects;
    use crate::model::build;

    /// A pod of node `here`, in a namespace of the mesh.
    fn pod(name: &str, account: &str, ip: &str, netns: &str, app: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  \
             labels: {{app: {app}}}\n  annotations: {{isthmus.dev/netns: {netns}, \
             isthmus.dev/cgroup: /c/{name}}}\nspec: {{nodeName: here, serviceAccountName: \
             {account}}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n---\n"
        )
    }

    fn world(pods: &[String]) -> World {
        world_of(NAMESPACE, pods, None)
    }

    const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  \
                             labels: {isthmus.dev/mesh: enabled}\n---\n";

    fn world_of(namespace: &str, pods: &[String], previous: Option<&World>) -> World {
        let text = format!("{namespace}{}", pods.concat());
        let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
        let built = build([&objects], "here", previous);
        assert_eq!(built.problems, []);
        built.world
    }

    fn enrolled(world: &World) -> HashMap<Arc<str>, Arc<Workload>> {
        world
            .workloads()
            .map(|workload| (Arc::clone(&workload.uid), Arc::clone(workload)))
            .collect()
    }

    /// The uids to release, to orphan, to describe and to enrol.
    fn uids(plan: &Plan) -> [Vec<String>; 4] {
        let of = |uids: &[Arc<str>]| uids.iter().map(ToString::to_string).collect();
        let named =
            |workloads: &[Arc<Workload>]| workloads.iter().map(|w| w.uid.to_string()).collect();
        let Plan {
            release,
            orphan,
            describe,
            enrol,
        } = plan;
        [of(release), of(orphan), named(describe), named(enrol)]
    }

    /// [`uids`] after a change.
    fn after(before: &[String], now: &[String]) -> [Vec<String>; 4] {
        uids(&plan(&enrolled(&world(before)), &world(now)))
    }

    const NONE: Vec<String> = Vec::new();

    fn one() -> Vec<String> {
        vec!["shop/web".to_owned()]
    }

    fn web() -> String {
        pod("web", "web", "10.0.0.1", "/n/web", "web")
    }

    #[test]
    fn plan_enrols_a_new_pod_and_leaves_an_unchanged_one() {
        assert_eq!(after(&[], &[web()]), [NONE, NONE, NONE, one()]);
        assert_eq!(after(&[web()], &[web()]), [NONE, NONE, NONE, NONE]);
    }

    #[test]
    fn plan_changes_a_pod_in_place() {
        for changed in [
            pod("web", "other", "10.0.0.1", "/n/web", "web"),
            pod("web", "web", "10.0.0.2", "/n/web", "web"),
            // The namespace may be the same under another path: enrolling tells.
            pod("web", "web", "10.0.0.1", "/n/new", "web"),
        ] {
            assert_eq!(after(&[web()], &[changed]), [NONE, NONE, NONE, one()]);
        }
        let relabelled = pod("web", "web", "10.0.0.1", "/n/web", "shop");
        assert_eq!(after(&[web()], &[relabelled]), [NONE, NONE, one(), NONE]);
    }

    #[test]
    fn plan_releases_only_a_pod_whose_object_leaves_the_mesh() {
        let disabled = web().replace("{app: web}", "{app: web, isthmus.dev/mesh: disabled}");
        assert_eq!(after(&[web()], &[disabled]), [one(), NONE, NONE, NONE]);
        let host = web().replace("{nodeName", "{hostNetwork: true, nodeName");
        assert_eq!(after(&[web()], &[host]), [one(), NONE, NONE, NONE]);
        let before = world(&[web()]);
        let unlabelled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n";
        let now = world_of(unlabelled, &[web()], Some(&before));
        let found = uids(&plan(&enrolled(&before), &now));
        assert_eq!(found, [one(), NONE, NONE, NONE]);
    }

    #[test]
    fn plan_orphans_a_pod_that_is_no_longer_listed() {
        assert_eq!(after(&[web()], &[]), [NONE, one(), NONE, NONE]);
        let ended = web().replace("status: {", "status: {phase: Failed, ");
        assert_eq!(after(&[web()], &[ended]), [NONE, one(), NONE, NONE]);
        let elsewhere = web().replace("nodeName: here", "nodeName: there");
        assert_eq!(after(&[web()], &[elsewhere]), [NONE, one(), NONE, NONE]);
    }

    #[test]
    fn plan_orphans_a_pod_that_was_made_again_under_its_name() {
        let with_uid = |uid: &str, netns: &str| {
            let pod = pod("web", "web", "10.0.0.1", netns, "web");
            pod.replace("  name: web\n", &format!("  name: web\n  uid: {uid}\n"))
        };
        let (old, new) = (with_uid("u1", "/n/web"), with_uid("u2", "/n/new"));
        let found = after(std::slice::from_ref(&old), std::slice::from_ref(&new));
        assert_eq!(found, [NONE, one(), NONE, one()]);
        // What the new one says is not said of the old one.
        let disabled = new.replace("{app: web}", "{app: web, isthmus.dev/mesh: disabled}");
        assert_eq!(after(&[old], &[disabled]), [NONE, one(), NONE, NONE]);
    }

    #[test]
    fn plan_keeps_a_pod_whose_namespace_object_is_gone() {
        let before = world(&[web()]);
        let now = world_of("", &[web()], Some(&before));
        let found = uids(&plan(&enrolled(&before), &now));
        assert_eq!(found, [NONE, NONE, one(), NONE]);
        let later = world_of("", &[web()], Some(&now));
        let found = uids(&plan(&enrolled(&now), &later));
        assert_eq!(found, [NONE, NONE, NONE, NONE]);
    }
}
