//! What a new configuration asks of the node, against what is there: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Workload, World};

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Enrolled pods that are to leave, by uid.
    pub(super) release: Vec<Arc<str>>,
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
        let wanted = world.workload(uid).and_then(|wanted| wanted.local.as_ref());
        let place = workload.local.as_ref();
        if wanted.map(|at| &at.netns) != place.map(|at| &at.netns) {
            plan.release.push(Arc::clone(uid));
        }
    }
    plan.release.sort();
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

/// Whether the two describe one pod, enrolled in one way; labels may differ.
fn same_pod(one: &Workload, other: &Workload) -> bool {
    one.local == other.local && one.identity == other.identity && one.addresses == other.addresses
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
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  \
                         labels: {isthmus.dev/mesh: enabled}\n---\n";
        let text = format!("{namespace}{}", pods.concat());
        let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
        let built = build([&objects], "here", None);
        assert_eq!(built.problems, []);
        built.world
    }

    fn enrolled(world: &World) -> HashMap<Arc<str>, Arc<Workload>> {
        world
            .workloads()
            .map(|workload| (Arc::clone(&workload.uid), Arc::clone(workload)))
            .collect()
    }

    /// The uids to release, to describe and to enrol, after a change.
    fn after(before: &[String], now: &[String]) -> [Vec<String>; 3] {
        let plan = plan(&enrolled(&world(before)), &world(now));
        let uids =
            |workloads: &[Arc<Workload>]| workloads.iter().map(|w| w.uid.to_string()).collect();
        let release = plan.release.iter().map(ToString::to_string).collect();
        [release, uids(&plan.describe), uids(&plan.enrol)]
    }

    #[test]
    fn a_pod_comes_and_goes() {
        let web = pod("web", "web", "10.0.0.1", "/n/web", "web");
        let none: Vec<String> = Vec::new();
        assert_eq!(
            after(&[], std::slice::from_ref(&web)),
            [none.clone(), none.clone(), vec!["shop/web".into()]]
        );
        assert_eq!(
            after(std::slice::from_ref(&web), &[]),
            [vec!["shop/web".into()], none.clone(), none.clone()]
        );
        assert_eq!(
            after(std::slice::from_ref(&web), std::slice::from_ref(&web)),
            [none.clone(), none.clone(), none]
        );
    }

    #[test]
    fn what_changes_in_place_is_never_released_in_between() {
        let web = pod("web", "web", "10.0.0.1", "/n/web", "web");
        let none: Vec<String> = Vec::new();
        let one = vec!["shop/web".to_owned()];
        for changed in [
            pod("web", "other", "10.0.0.1", "/n/web", "web"),
            pod("web", "web", "10.0.0.2", "/n/web", "web"),
        ] {
            let found = after(std::slice::from_ref(&web), &[changed]);
            assert_eq!(found, [none.clone(), none.clone(), one.clone()]);
        }
        let relabelled = pod("web", "web", "10.0.0.1", "/n/web", "shop");
        assert_eq!(
            after(std::slice::from_ref(&web), &[relabelled]),
            [none.clone(), one.clone(), none]
        );
    }

    #[test]
    fn another_namespace_is_another_pod() {
        let web = pod("web", "web", "10.0.0.1", "/n/web", "web");
        let moved = pod("web", "web", "10.0.0.1", "/n/new", "web");
        let one = vec!["shop/web".to_owned()];
        assert_eq!(after(&[web], &[moved]), [one.clone(), Vec::new(), one]);
    }
}
