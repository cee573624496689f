//! Proof by a connection: a child of the agent moves into the pod's cgroup and network
//! namespace, as any process of the pod is in them, and connects to an address for
//! documentation, which no network carries. The agent must see it arrive at its listener
//! with that very destination; were it not captured, the guard would drop it, and without
//! the guard it would lead nowhere.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::admin::api::ProbeResult;
use crate::proxy::{Pod, Probes};

/// Name of the cgroup that the child is in, below the pod's: a cgroup that has others below
/// it may not take processes itself (cgroups(7), "no internal processes").
const CGROUP: &str = "isthmus-probe";

/// Time for the child: in a pod that is frozen it would never end.
const LIMIT: Duration = Duration::from_secs(5);

/// One connection for each family of which the pod has an address.
pub(super) async fn probe(probes: &Probes, pod: &Pod) -> Vec<ProbeResult> {
    let mut results = Vec::new();
    for address in &pod.workload().addresses {
        let to = nowhere(*address);
        let mut expected = probes.expect(pod.netns().cookie(), to);
        let said = connect(pod, to).await;
        let captured = expected.has_arrived();
        let otherwise = match said {
            Ok(()) => "it connected, and not to this agent".to_owned(),
            Err(error) => error,
        };
        results.push(ProbeResult {
            to: to.to_string(),
            captured,
            detail: (!captured).then_some(otherwise),
        });
    }
    results
}

/// An address that nobody has (RFC 5737 TEST-NET-1, RFC 3849) of the family of `address`,
/// chosen so that no two probes have the same.
fn nowhere(address: IpAddr) -> SocketAddr {
    let [a, b, c, d, e, f, g, h] = RandomState::new().hash_one(address).to_be_bytes();
    let port = u16::from_be_bytes([a, b]).max(1);
    let ip = match address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, c).into(),
        IpAddr::V6(_) => {
            let [x, y, z] = [[c, d], [e, f], [g, h]].map(u16::from_be_bytes);
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, x, y, z).into()
        }
    };
    SocketAddr::new(ip, port)
}

/// Has the child connect and hear the end of the connection.
async fn connect(pod: &Pod, to: SocketAddr) -> Result<(), String> {
    let workload = pod.workload();
    let local = workload
        .local
        .as_ref()
        .ok_or("where the pod is is not known")?;
    let cgroup = Below::create(&local.cgroup).map_err(|error| {
        format!(
            "no cgroup can be made below {}: {error}",
            local.cgroup.display()
        )
    })?;
    // The very namespace, whatever its path leads to by now.
    let netns = pod.netns().as_fd().as_raw_fd();
    let child = Command::new("/proc/self/exe")
        .arg("probe")
        .arg("--cgroup")
        .arg(&cgroup.0)
        .arg("--netns")
        .arg(format!("/proc/{}/fd/{netns}", std::process::id()))
        .arg("--to")
        .arg(to.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("the probing process cannot be started: {error}"))?;
    match tokio::time::timeout(LIMIT, child.wait_with_output()).await {
        Ok(Ok(ended)) if ended.status.success() => Ok(()),
        Ok(Ok(ended)) => Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned()),
        Ok(Err(error)) => Err(format!("the probing process cannot be awaited: {error}")),
        Err(_) => Err("the probing process did not end: is the pod frozen?".to_owned()),
    }
}

/// A cgroup of the probe's own, until it is dropped.
struct Below(PathBuf);

impl Below {
    fn create(pod: &Path) -> io::Result<Self> {
        let path = pod.join(CGROUP);
        match fs::create_dir(&path) {
            // Left by an agent that was killed, or by a child that is still ending.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::debug!(cgroup = %self.0.display(), %error, "the probe's cgroup stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leads_nowhere_in_the_family_of_the_address() {
        let v4 = nowhere("10.0.0.1".parse().unwrap());
        assert!(
            v4.to_string().starts_with("192.0.2.") && v4.port() != 0,
            "{v4}"
        );
        let v6 = nowhere("fd00::1".parse().unwrap());
        assert!(
            v6.to_string().starts_with("[2001:db8:") && v6.port() != 0,
            "{v6}"
        );
        assert_ne!(v6, nowhere("fd00::1".parse().unwrap()));
    }
}
