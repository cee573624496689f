//! The kubelet is found by its processes, wherever their cgroup is, and never among the pods.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mesh_agent::intercept::{Interceptor, KubeletCgroup, KubeletError, Options};

use crate::bed::{Bed, Cgroup, cgroup_root};

/// A process by the name of `kubelet`, killed on drop.
struct Kubelet(Child);

impl Kubelet {
    fn start(cgroup: &Cgroup) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "echo kubelet > /proc/$$/comm; echo named; read line"]);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut line = String::new();
        let named = child.stdout.take().unwrap();
        BufReader::new(named).read_line(&mut line).unwrap();
        assert_eq!(line, "named\n");
        let kubelet = Self(child);
        fs::write(cgroup.0.join("cgroup.procs"), kubelet.0.id().to_string()).unwrap();
        kubelet
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A machine that has another kubelet is told that there are two: neither is trusted then.
fn found(kernel: &Interceptor, cgroup: &Path) -> bool {
    match kernel.tend_kubelet() {
        None => kernel.kubelet_cgroup().as_deref() == Some(cgroup),
        Some(KubeletError::Several(all)) => {
            let pods = all.contains("isthmus-smoke-found-");
            assert!(!pods, "a pod is among them: {all}");
            all.contains(&*cgroup.to_string_lossy())
        }
        Some(_) => false,
    }
}

#[test]
fn a_kubelet_is_found_by_its_process_and_no_pod_is_one() {
    let bed = Bed::new("found");
    let own = format!("isthmus-kubelet-{}", std::process::id());
    let service = Cgroup::new(cgroup_root().join(own));
    let _in_a_pod = Kubelet::start(&bed.cgroup);
    let kernel = Interceptor::open(&Options {
        kubelet: KubeletCgroup::Find,
        ..bed.options.clone()
    });
    let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
    assert!(!found(&kernel, &service.0));
    let kubelet = Kubelet::start(&service);
    assert!(found(&kernel, &service.0), "{:?}", kernel.kubelet_error());
    assert!(found(&kernel, &service.0), "{:?}", kernel.kubelet_error());
    drop(kubelet);
    assert!(!found(&kernel, &service.0), "trusted without a kubelet");
}
