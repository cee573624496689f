//! Sandboxes over made-up trees: a cgroup directory, a `/proc` whose namespaces are plain
//! files (hard links to one are one namespace), and a `/run/netns`.

use std::fs;

use super::*;

const UID: &str = "0b4c1f3e-6d3a-4f62-9c0b-8f5f1d2a7c11";

struct Bed {
    root: tempfile::TempDir,
    sandboxes: Sandboxes,
}

impl Bed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let sandboxes = Sandboxes::seen_by(
            path("kubepods"),
            Namespaces::at(&path("proc"), &path("netns")),
        );
        for dir in ["kubepods", "netns", "namespaces"] {
            fs::create_dir(path(dir)).unwrap();
        }
        let bed = Self { root, sandboxes };
        bed.process("self", 0, "host");
        bed.process("1", 0, "host");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes `path` a file of the namespace.
    fn bind(&self, namespace: &str, path: &Path) {
        let file = self.path("namespaces").join(namespace);
        if !file.exists() {
            fs::write(&file, "").unwrap();
        }
        let _ = fs::remove_file(path);
        fs::hard_link(file, path).unwrap();
    }

    fn process(&self, pid: &str, started: u64, namespace: &str) {
        let dir = self.path("proc").join(pid);
        fs::create_dir_all(dir.join("ns")).unwrap();
        let rest = "0 ".repeat(18);
        fs::write(
            dir.join("stat"),
            format!("{pid} (a) b) S {rest}{started} 0\n"),
        )
        .unwrap();
        self.bind(namespace, &dir.join("ns/net"));
    }

    fn pod(&self, pids: &str) -> PathBuf {
        let cgroup = self.path(&format!("kubepods/burstable/pod{UID}"));
        fs::create_dir_all(cgroup.join("c")).unwrap();
        fs::write(cgroup.join("c/cgroup.procs"), pids).unwrap();
        cgroup
    }

    fn end(&self, pid: &str) {
        fs::remove_dir_all(self.path("proc").join(pid)).unwrap();
    }

    fn netns(&self) -> Option<PathBuf> {
        self.sandboxes.find(UID).map(|sandbox| sandbox.netns)
    }
}

#[test]
fn the_oldest_process_tells_the_namespace() {
    let bed = Bed::new();
    bed.process("30", 500, "nested");
    bed.process("40", 400, "pod");
    assert_eq!(bed.netns(), None, "there is no cgroup yet");
    let cgroup = bed.pod("30\n40\n");
    let found = bed.sandboxes.find(UID).unwrap();
    assert_eq!(found.cgroup, cgroup);
    assert_eq!(found.netns, bed.path("proc/40/ns/net"));
    assert!(found.addresses.is_empty());
}

#[test]
fn a_named_namespace_goes_before_a_process() {
    let bed = Bed::new();
    bed.process("40", 400, "pod");
    bed.pod("40\n");
    bed.bind("other", &bed.path("netns/cni-1"));
    bed.bind("pod", &bed.path("netns/cni-2"));
    assert_eq!(bed.netns(), Some(bed.path("netns/cni-2")));
}

#[test]
fn the_machines_own_namespace_is_nobodys() {
    let bed = Bed::new();
    bed.process("40", 400, "host");
    bed.process("41", 500, "pod");
    bed.pod("40\n41\n");
    assert_eq!(bed.netns(), None);
    bed.bind("host", &bed.path("netns/host"));
    bed.sandboxes.told(UID, bed.path("netns/host"), Vec::new());
    assert_eq!(bed.netns(), None);
}

#[test]
fn the_path_stays_while_it_leads_to_the_same_namespace() {
    let bed = Bed::new();
    bed.process("40", 400, "pod");
    bed.process("41", 500, "pod");
    bed.pod("40\n41\n");
    assert_eq!(bed.netns(), Some(bed.path("proc/40/ns/net")));
    // A name for it that comes later is no other namespace.
    bed.bind("pod", &bed.path("netns/cni-1"));
    bed.sandboxes.told(UID, bed.path("netns/cni-1"), Vec::new());
    assert_eq!(bed.netns(), Some(bed.path("proc/40/ns/net")));
    // The process ends, and its number becomes another's.
    bed.end("40");
    assert_eq!(bed.netns(), Some(bed.path("netns/cni-1")));
    bed.sandboxes.withdrawn(UID);
    fs::remove_file(bed.path("netns/cni-1")).unwrap();
    bed.process("40", 900, "other");
    assert_eq!(bed.netns(), Some(bed.path("proc/41/ns/net")));
}

#[test]
fn another_sandbox_of_the_same_pod_is_found() {
    let bed = Bed::new();
    bed.pod("");
    for round in ["one", "two"] {
        let path = bed.path("netns").join(round);
        bed.bind(round, &path);
        let address = "10.0.0.1".parse().unwrap();
        bed.sandboxes.told(UID, path.clone(), vec![address]);
        let found = bed.sandboxes.find(UID).unwrap();
        assert_eq!((found.netns, found.addresses), (path, vec![address]));
    }
    bed.sandboxes.withdrawn(UID);
    assert_eq!(bed.netns(), None, "no process, and nobody told");
}

#[test]
fn the_end_of_an_earlier_sandbox_is_not_the_pods() {
    let bed = Bed::new();
    bed.pod("");
    let (old, new) = (bed.path("netns/old"), bed.path("netns/new"));
    bed.bind("new", &new);
    bed.sandboxes.told(UID, new.clone(), Vec::new());
    for ended in [Some(old.as_path()), None] {
        bed.sandboxes.left(UID, ended);
        assert_eq!(bed.netns().as_ref(), Some(&new));
    }
    bed.sandboxes.left(UID, Some(&new));
    assert_eq!(bed.netns(), None);
}

#[test]
fn addresses_of_a_namespace_that_went_away_are_not_kept() {
    let bed = Bed::new();
    bed.process("40", 400, "new");
    bed.pod("40\n");
    bed.sandboxes.told(
        UID,
        bed.path("netns/gone"),
        vec!["10.0.0.1".parse().unwrap()],
    );
    let found = bed.sandboxes.find(UID).unwrap();
    assert_eq!(found.netns, bed.path("proc/40/ns/net"));
    assert!(found.addresses.is_empty());
}

#[test]
fn what_is_gone_is_forgotten() {
    let bed = Bed::new();
    bed.process("40", 400, "pod");
    let cgroup = bed.pod("40\n");
    bed.sandboxes
        .told("gone", bed.path("netns/gone"), Vec::new());
    assert!(bed.sandboxes.find(UID).is_some());
    assert!(bed.sandboxes.lock().told.is_empty());
    fs::remove_dir_all(cgroup).unwrap();
    assert_eq!(bed.netns(), None);
    assert!(bed.sandboxes.lock().found.is_empty());
}

#[test]
fn news_wake_who_waits() {
    let bed = Bed::new();
    let mut news = bed.sandboxes.subscribe();
    assert!(!news.has_changed().unwrap());
    bed.sandboxes
        .told(UID, "/var/run/netns/x".into(), Vec::new());
    assert!(news.has_changed().unwrap());
    assert_eq!(
        bed.sandboxes.lock().told[UID].netns,
        Path::new("/run/netns/x")
    );
    news.mark_unchanged();
    bed.sandboxes.withdrawn(UID);
    assert!(news.has_changed().unwrap());
}
