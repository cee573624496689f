//! Who counts as the kubelet. That its cgroup is refused where it holds pods is shown with
//! real cgroups, in the privileged tests.

use super::*;

fn process(proc: &Path, pid: u32, name: &str, uids: &str) {
    let folder = proc.join(pid.to_string());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
    let status = format!("Name:\t{name}\nUmask:\t0022\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n");
    fs::write(folder.join("status"), status).unwrap();
}

#[test]
fn only_roots_processes_of_that_name_are_kubelets() {
    let proc = tempfile::tempdir().unwrap();
    for (pid, name, uids) in [
        (10, "kubelet", "0\t0\t0\t0"),
        (11, "k3s-server", "0\t0\t0\t0"),
        (12, "kubelet", "1000\t1000\t1000\t1000"),
        (13, "kubelet", "1000\t0\t0\t0"),
        (14, "kubelet-helper", "0\t0\t0\t0"),
        (15, "bash", "0\t0\t0\t0"),
    ] {
        process(proc.path(), pid, name, uids);
    }
    fs::create_dir(proc.path().join("sys")).unwrap();
    // One that ended while it was looked at.
    fs::create_dir(proc.path().join("16")).unwrap();
    let mut found = kubelets(proc.path());
    found.sort_unstable();
    assert_eq!(found, [10, 11]);
}

#[test]
fn kubelets_in_two_cgroups_are_not_told_apart_by_luck() {
    let homes = vec![(1, PathBuf::from("/a")), (2, PathBuf::from("/b"))];
    let error = one(homes).unwrap_err();
    assert!(error.to_string().contains("/a, /b"), "{error}");
    assert!(error.to_string().contains("--kubelet-cgroup"), "{error}");
    assert_eq!(one(Vec::new()), Err(KubeletError::NotFound));
}
