//! Debian packages for what is missing on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command::{Run, exists};

/// A program (or file) and the package that brings it.
pub(crate) type Need = (&'static str, &'static str);

/// For the privileged tests and the demo.
pub(crate) const TEST_TOOLS: &[Need] = &[
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("psql", "postgresql-client"),
    ("/usr/share/postgresql-common/pg_wrapper", "postgresql"),
    ("openssl", "openssl"),
    ("ps", "procps"),
];

/// For a Kubernetes cluster, and the images of its tests.
pub(crate) const CLUSTER_TOOLS: &[Need] = &[
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("sysctl", "procps"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("/bin/busybox", "busybox-static"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("psql", "postgresql-client"),
    ("/usr/share/postgresql-common/pg_wrapper", "postgresql"),
];

/// Installs the packages of those needs that are not met; does nothing when all are.
pub(crate) fn ensure_all(purpose: &str, needs: &[Need]) -> Result<()> {
    let packages: Vec<_> = needs
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    install(purpose, &packages)?;
    for (program, package) in needs {
        ensure!(
            exists(program),
            "the package {package} was installed, but brought no `{program}`"
        );
    }
    Ok(())
}

/// Installs packages, and starts none of their services.
pub(crate) fn install(purpose: &str, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(
        exists("apt-get"),
        "{purpose} needs {list}, and there is no apt-get here: install them by this system's own means"
    );
    crate::require_root().with_context(|| format!("installing {list}"))?;
    println!("Installing for {purpose}: {list}");
    let _no_services = NoServices::begin()?;
    update()?;
    apt("install --yes --no-install-recommends").words(&list).output().map(drop).with_context(|| {
        format!("{purpose} needs the packages {list}, and apt-get could not install them: is the network up, and is this Debian 12 or later?")
    })
}

/// Brings apt's lists up to date, once a run.
pub(crate) fn update() -> Result<()> {
    static DONE: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut done = DONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*done {
        apt("update")
            .output()
            .context("apt-get update failed: is the network up?")?;
        *done = true;
    }
    Ok(())
}

fn apt(words: &str) -> Run {
    Run::new("apt-get")
        .words("-qq")
        .words(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
}

/// While it lives, Debian's maintainer scripts start no service (`policy-rc.d`, exit status
/// 101: forbidden). A machine's own policy is left alone.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Put here by `cargo xtask` while it installs packages.\nexit 101\n";

impl NoServices {
    fn begin() -> Result<Self> {
        let present = fs::read_to_string(POLICY).ok();
        // One of ours that is there already was left by a run that was killed.
        let ours = present.as_deref().is_none_or(|text| text == POLICY_TEXT);
        if ours {
            fs::write(POLICY, POLICY_TEXT)
                .and_then(|()| {
                    fs::set_permissions(Path::new(POLICY), fs::Permissions::from_mode(0o755))
                })
                .with_context(|| format!("writing {POLICY}"))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
