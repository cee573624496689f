//! What the machine itself offers: kernel, privileges, mounts, limits. What single eBPF
//! helpers offer is for the interceptor's own probe.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Finding;

/// The oldest kernel that the agent supports.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Open files below which a node of some dozen pods would soon be short: a connection
/// takes one, and a share of a tunnel.
const FEW_FILES: u64 = 4096;

/// Capabilities by number (linux/capability.h), with what the agent needs each for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (
        12,
        "CAP_NET_ADMIN",
        "attaching to control groups and destroying sockets",
    ),
    (
        19,
        "CAP_SYS_PTRACE",
        "opening the network namespaces of other users' processes",
    ),
    (21, "CAP_SYS_ADMIN", "entering the pods' network namespaces"),
    (39, "CAP_BPF", "loading eBPF programs"),
];

pub(crate) fn findings(pin_dir: &Path) -> Vec<Finding> {
    let mut all = vec![kernel(), btf()];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    all.extend(capabilities(&status));
    all.extend([bpffs(pin_dir), cgroup2(), files()]);
    all
}

fn finding(name: &str, ok: bool, required: bool, detail: String, cure: &str) -> Finding {
    Finding {
        name: name.into(),
        ok,
        required,
        detail,
        cure: cure.into(),
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ok = version(&release).is_some_and(|version| version >= OLDEST_KERNEL);
    let (major, minor) = OLDEST_KERNEL;
    let cure = format!("boot Linux {major}.{minor} or later");
    finding(
        "kernel",
        ok,
        true,
        format!("Linux {}", release.trim()),
        &cure,
    )
}

/// Major and minor of a kernel release such as `6.1.0-18-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf() -> Finding {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    let ok = fs::metadata(PATH).is_ok_and(|meta| meta.len() > 0);
    let detail = if ok {
        PATH.to_owned()
    } else {
        format!("no {PATH}")
    };
    finding(
        "kernel types (BTF)",
        ok,
        true,
        detail,
        "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    )
}

/// From the text of /proc/self/status.
fn capabilities(status: &str) -> Vec<Finding> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .map(|(number, name, purpose)| {
            let ok = effective >> number & 1 == 1;
            finding(
                name,
                ok,
                true,
                format!("for {purpose}"),
                "run as root, or give this capability",
            )
        })
        .collect()
}

fn bpffs(pin_dir: &Path) -> Finding {
    // The directory itself is made by the agent: its nearest ancestor tells.
    let there = pin_dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let ok = statfs(there).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    let detail = if ok {
        format!("for {}", pin_dir.display())
    } else {
        format!("{} is not on one", pin_dir.display())
    };
    finding(
        "BPF file system",
        ok,
        true,
        detail,
        "mount -t bpf bpf /sys/fs/bpf",
    )
}

fn cgroup2() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = crate::cli::run::cgroup2_mount(&mounts);
    let ok = mount.is_some();
    let detail = mount.map_or_else(|| "not mounted".into(), |place| place.display().to_string());
    finding(
        "cgroup v2",
        ok,
        true,
        detail,
        "mount -t cgroup2 none /sys/fs/cgroup",
    )
}

fn files() -> Finding {
    let (ok, detail) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => (hard >= FEW_FILES, format!("{soft}, at most {hard}")),
        Err(errno) => (false, errno.to_string()),
    };
    finding(
        "open files",
        ok,
        false,
        detail,
        "raise the limit (LimitNOFILE= of a systemd unit, ulimit -n)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(version("6.1.0-18-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.18.3"), Some((6, 18)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version(""), None);
        assert!(version("5.15.0") < Some(OLDEST_KERNEL));
    }

    #[test]
    fn capabilities_are_read_bit_by_bit() {
        // CAP_NET_ADMIN and CAP_BPF alone.
        let status = format!("Name:\tx\nCapEff:\t{:016x}\n", 1_u64 << 12 | 1 << 39);
        let got: Vec<_> = capabilities(&status)
            .into_iter()
            .filter(|f| f.ok)
            .map(|f| f.name)
            .collect();
        assert_eq!(got, ["CAP_NET_ADMIN", "CAP_BPF"]);
        assert!(capabilities("").iter().all(|f| !f.ok));
    }
}
