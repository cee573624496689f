//! What is said of a pod whose namespace or cgroup is not what it should be.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::check_local_pod;
use super::super::document::read_objects;
use super::Folder;
use crate::model::{Origin, Workload, build};

/// A network namespace that every process can name.
const OWN_NETNS: &str = "/proc/self/ns/net";

fn pod(netns: &Path, cgroup: &Path) -> Workload {
    let (netns, cgroup) = (netns.display(), cgroup.display());
    let yaml = format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {{isthmus.dev/mesh: enabled}}
  annotations: {{isthmus.dev/netns: {netns}, isthmus.dev/cgroup: {cgroup}}}
spec: {{nodeName: node-a}}
status: {{podIP: 10.1.0.2}}
"
    );
    let objects = read_objects(Path::new("web.yaml"), &yaml).unwrap();
    let built = build([&objects], "node-a", None);
    Workload::clone(built.world.workload("shop/web").unwrap())
}

/// `field: message` of every problem.
fn check(netns: &Path, cgroup: &Path, pods_cgroup: &Path) -> Vec<String> {
    let problems = check_local_pod(&pod(netns, cgroup), pods_cgroup);
    for problem in &problems {
        assert_eq!(problem.file, Path::new("web.yaml"));
        assert_eq!(problem.object.as_deref(), Some("Pod shop/web"));
        assert!(!problem.cure.is_empty());
    }
    let told = problems
        .iter()
        .map(|it| format!("{}: {}", it.field, it.message));
    told.collect()
}

#[test]
fn what_does_not_exist_or_is_something_else() {
    let folder = Folder::with(&[("file", "")]);
    let none = folder.path("none");
    let file = folder.path("file");
    assert_eq!(
        check(&none, &none, &folder.dir),
        [
            format!(
                "metadata.annotations[isthmus.dev/netns]: network namespace {}: No such file or directory (os error 2)",
                none.display()
            ),
            format!(
                "metadata.annotations[isthmus.dev/cgroup]: cgroup {}: No such file or directory (os error 2)",
                none.display()
            ),
        ]
    );
    assert_eq!(
        check(&file, &folder.dir, &folder.dir),
        [
            format!(
                "metadata.annotations[isthmus.dev/netns]: {} is not a network namespace",
                file.display()
            ),
            format!(
                "metadata.annotations[isthmus.dev/cgroup]: {} is not a cgroup v2 directory",
                folder.dir.display()
            ),
        ]
    );
}

#[test]
fn of_a_pod_of_the_api_no_annotation_is_blamed() {
    let mut pod = pod(Path::new("/none"), Path::new("/none"));
    pod.origin = Origin::api();
    let problems = check_local_pod(&pod, Path::new("/sys"));
    let [netns, cgroup] = &problems[..] else {
        panic!("{problems:?}")
    };
    for (problem, what) in [
        (netns, "network namespace /none: "),
        (cgroup, "cgroup /none: "),
    ] {
        assert_eq!(problem.field, "metadata.uid");
        assert!(problem.message.starts_with(what), "{problem}");
        assert!(!problem.to_string().contains("annotation"), "{problem}");
        assert!(problem.cure.contains("--pods-cgroup"), "{problem}");
    }
}

#[test]
fn a_pod_that_is_not_of_this_node_is_not_looked_at() {
    let mut pod = pod(Path::new("/none"), Path::new("/none"));
    pod.local = None;
    assert_eq!(check_local_pod(&pod, Path::new("/none")), []);
}

/// A cgroup with one below it, removed with the value.
struct Cgroup {
    path: PathBuf,
    child: PathBuf,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts
            .find(|mount| mount[2] == "cgroup2")
            .expect("cgroup2 is mounted");
        let path = Path::new(mount[1]).join(format!("isthmus-{name}-{}", std::process::id()));
        let child = path.join("web");
        fs::create_dir_all(&child).unwrap();
        Self { path, child }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.child);
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
#[ignore = "needs root and a cgroup v2 mount: cargo xtask test"]
fn a_cgroup_must_be_below_the_pods_cgroup() {
    let pods = Cgroup::new("pods");
    let other = Cgroup::new("other");
    let netns = Path::new(OWN_NETNS);
    assert_eq!(check(netns, &pods.child, &pods.path), [""; 0]);
    let complaint = |path: &Path| {
        let (path, pods) = (path.display(), pods.path.display());
        vec![format!(
            "metadata.annotations[isthmus.dev/cgroup]: {path} is not under {pods}"
        )]
    };
    assert_eq!(
        check(netns, &other.child, &pods.path),
        complaint(&other.child)
    );
    assert_eq!(check(netns, &pods.path, &pods.path), complaint(&pods.path));
    let roundabout = pods.path.join("..").join(other.path.file_name().unwrap());
    assert_eq!(
        check(netns, &roundabout, &pods.path),
        complaint(&roundabout)
    );
    let file = pods.path.join("cgroup.procs");
    assert_eq!(
        check(netns, &file, &pods.path),
        [format!(
            "metadata.annotations[isthmus.dev/cgroup]: {} is not a cgroup v2 directory",
            file.display()
        )]
    );
}
