//! The node of the agent: cgroups, a bpffs, and one pod that is really there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use isthmus_tests::cgroup::Cgroup;
use isthmus_tests::folder::Folder;
use isthmus_tests::leftovers;
use isthmus_tests::netns::Netns;
use isthmus_tests::process::Process;
use serde_json::Value;

use super::api::{Api, Call};
use super::objects;

/// The node's name, and that of the namespace of the real pod.
pub(crate) const NODE: &str = "here";
const ADDRESS: &str = "10.127.0.1";

/// What the agent runs in. Fields are dropped in this order.
pub(crate) struct Bed {
    _process: Process,
    _netns: Netns,
    _container: Cgroup,
    _pod: Cgroup,
    _class: Cgroup,
    pods: Cgroup,
    pub(crate) agent: Cgroup,
    _cgroup: Cgroup,
    folder: Folder,
}

impl Bed {
    pub(crate) async fn create(api: &Api) -> Result<Self> {
        let uid = announce(api).await?;
        let name = leftovers::unique_name();
        let folder = Folder::create(&name, &["run", "state"])?;
        let cgroup = Cgroup::create(&name)?;
        let agent = cgroup.child("agent")?;
        let pods = cgroup.child("kubepods")?;
        let class = pods.child("besteffort")?;
        let pod = class.child(&format!("pod{uid}"))?;
        let container = pod.child("container")?;
        let netns = Netns::create(&name)?;
        netns.ip(&format!("addr add {ADDRESS}/32 dev lo"))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns.name(), "sleep", "infinity"]);
        let process = Process::spawn(command)?;
        fs::write(
            container.path().join("cgroup.procs"),
            process.pid().to_string(),
        )
        .context("putting a process into the pod")?;
        Ok(Self {
            _process: process,
            _netns: netns,
            _container: container,
            _pod: pod,
            _class: class,
            pods,
            agent,
            _cgroup: cgroup,
            folder,
        })
    }

    /// The cgroup of all pods.
    pub(crate) fn pods(&self) -> &Path {
        self.pods.path()
    }

    /// A folder of the agent's.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Describes the pod, outside the mesh; its UID is the API server's to give.
async fn announce(api: &Api) -> Result<String> {
    let inside = format!("/api/v1/namespaces/{NODE}");
    let calls = [
        ("/api/v1/nodes".to_owned(), objects::node(NODE)),
        (
            "/api/v1/namespaces".to_owned(),
            objects::named_namespace(NODE, "disabled"),
        ),
        (
            format!("{inside}/serviceaccounts"),
            objects::account("default"),
        ),
    ];
    for (path, object) in calls {
        api.call(Call::post(path, object)).await?;
    }
    let pod = objects::pod_of("web", "web", "default", NODE);
    let answer = api.call(Call::post(format!("{inside}/pods"), pod)).await?;
    let pod: Value = serde_json::from_str(&answer).context("the pod as it was made")?;
    let uid = pod["metadata"]["uid"]
        .as_str()
        .context("no UID")?
        .to_owned();
    let status = objects::status(ADDRESS.parse()?);
    api.call(Call::patch(format!("{inside}/pods/web/status"), status))
        .await?;
    Ok(uid)
}
