//! What the machine offers to the kernel's side of the mesh: for `mesh-agent
//! check`, and for the agent's first lines of log. Each feature is asked of the
//! kernel itself where that is possible without leaving a trace.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::{cgroup, device, object, sockdiag, sys};

mod helpers;

/// Capabilities that the agent needs, by number (capabilities(7)), and for what. `CAP_BPF` and
/// `CAP_PERFMON` are not among them: wherever the kernel asks for one, `CAP_SYS_ADMIN` will do
/// (`bpf_capable`, `perfmon_capable` of linux/capability.h), and nothing else enters a namespace.
pub(crate) const CAPABILITIES: [(u32, &str, &str); 3] = [
    (
        12,
        "CAP_NET_ADMIN",
        "end plaintext connections; before Linux 6.5, attach programs",
    ),
    (
        21,
        "CAP_SYS_ADMIN",
        "enter the pods' network namespaces, load programs (it includes CAP_BPF and CAP_PERFMON)",
    ),
    (
        19,
        "CAP_SYS_PTRACE",
        "reach a pod's network namespace by its processes",
    ),
];
/// Oldest kernel on which the mesh is tested.
const OLDEST: (u32, u32) = (6, 1);

/// One thing that the machine has or lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Whether the machine has it.
    pub present: bool,
    /// Whether the mesh cannot do without it.
    pub needed: bool,
    /// What was found, and what it is for.
    pub detail: String,
    /// What to do where it is absent.
    pub cure: &'static str,
}

/// Looks at everything, in the order in which an agent meets it.
pub fn probe(pods_cgroup: &Path, pin_dir: &Path) -> Vec<Feature> {
    let mut features = vec![
        kernel(),
        btf(),
        programs(),
        cgroup2(pods_cgroup),
        bpffs(pin_dir),
        jit(),
    ];
    features.extend(capabilities());
    features.push(sock_destroy());
    features.push(device_filters());
    features.extend(helpers::probe());
    features
}

fn kernel() -> Feature {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    Feature {
        name: "kernel",
        present: version(release).is_some_and(|version| version >= OLDEST),
        needed: true,
        detail: format!("Linux {release}; 6.1 and later are supported"),
        cure: "run a kernel of version 6.1 or later",
    }
}

/// Major and minor version of a kernel release such as `6.1.0-31-cloud`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

fn btf() -> Feature {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    Feature {
        name: "BTF",
        present: Path::new(PATH).exists(),
        needed: false,
        detail: format!("{PATH}; lets bpftool show the maps' types"),
        cure: "use a kernel with CONFIG_DEBUG_INFO_BTF",
    }
}

fn programs() -> Feature {
    Feature {
        name: "kernel programs",
        present: object::is_embedded(),
        needed: true,
        detail: "embedded in the agent by its build".to_owned(),
        cure: "build the agent with `cargo xtask build`",
    }
}

fn cgroup2(pods_cgroup: &Path) -> Feature {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = match cgroup::mount(&mounts) {
        Some((_, point)) => format!("mounted at {point}"),
        None => "not mounted".to_owned(),
    };
    let fits = statfs(pods_cgroup).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    Feature {
        name: "cgroup v2",
        present: fits,
        needed: true,
        detail: if fits {
            format!("{mounted}; pods are below {}", pods_cgroup.display())
        } else {
            format!("{mounted}; {} is not part of it", pods_cgroup.display())
        },
        cure: "mount it (`mount -t cgroup2 none /sys/fs/cgroup`) and give --pods-cgroup below it",
    }
}

fn bpffs(pin_dir: &Path) -> Feature {
    let existing = pin_dir.ancestors().find(|path| path.exists());
    let on_bpffs = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    Feature {
        name: "bpf file system",
        present: on_bpffs,
        needed: true,
        detail: format!("for the pins in {}", pin_dir.display()),
        cure: "mount it (`mount -t bpf bpf /sys/fs/bpf`, on the node itself)",
    }
}

fn jit() -> Feature {
    // A kernel with CONFIG_BPF_JIT_ALWAYS_ON may hide the switch.
    let value = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    Feature {
        name: "BPF JIT",
        present: value.as_deref().map(str::trim) != Some("0"),
        needed: false,
        detail: "without it the programs are interpreted, several times slower".to_owned(),
        cure: "sysctl -w net.core.bpf_jit_enable=1",
    }
}

fn capabilities() -> Vec<Feature> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective(&status).unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .map(|(number, name, detail)| Feature {
            name,
            present: effective & 1 << number != 0,
            needed: true,
            detail: detail.to_owned(),
            cure: "run the agent as root, or grant it this capability",
        })
        .collect()
}

/// The effective capabilities in a text such as /proc/self/status.
fn effective(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn device_filters() -> Feature {
    /// `BPF_PROG_TYPE_SCHED_CLS` of uapi/linux/bpf.h.
    const SCHED_CLS: u32 = 3;
    let supported = sys::load_passing(SCHED_CLS).and_then(|it| device::is_supported(it.as_fd()));
    Feature {
        name: "programs on devices",
        present: supported.is_ok(),
        needed: true,
        detail: match supported {
            Ok(()) => "refuse what leaves or enters a pod without a socket of the pod".to_owned(),
            Err(error) => format!("cannot be attached in a namespace of their own: {error}"),
        },
        cure: "use a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, or the modules \
               sch_ingress and cls_bpf",
    }
}

fn sock_destroy() -> Feature {
    let supported = sockdiag::is_supported();
    Feature {
        name: "SOCK_DESTROY",
        present: matches!(supported, Ok(true)),
        needed: false,
        detail: match supported {
            Ok(_) => "resets a STRICT pod's older plaintext; else the guard lets it starve".into(),
            Err(error) => format!("cannot be asked: {error}"),
        },
        cure: "use a kernel with CONFIG_INET_DIAG_DESTROY and the modules inet_diag, tcp_diag",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels() {
        assert_eq!(version("6.1.0-31-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version(""), None);
    }

    #[test]
    fn effective_capabilities() {
        let status = "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn what_is_absent_names_a_cure() {
        let features = probe(Path::new("/proc"), Path::new("/proc"));
        let absent = |name| {
            let feature = features.iter().find(|feature| feature.name == name);
            feature.is_some_and(|feature| !feature.present && feature.needed)
        };
        assert!(absent("cgroup v2") && absent("bpf file system"));
        assert!(features.iter().all(|feature| !feature.cure.is_empty()));
    }
}
