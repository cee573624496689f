//! A control plane without nodes, for the bench of scale: an API server with room for objects
//! that no kubelet looks at.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::place::Place;
use super::{cgroups, control, kubernetes, life, network, service, step, supervise, until};
use crate::apt;
use crate::command::Run;

/// A control plane that is up; removed on drop.
pub(crate) struct Alone {
    place: Place,
}

impl Alone {
    /// Brings it up, with an audit of what `user` asks. What an earlier run left is removed.
    ///
    /// A Ctrl-C leaves it up: `cargo xtask cluster down --name NAME`, or the next run, removes it.
    pub(crate) fn up(name: &str, user: &str) -> Result<Self> {
        let place = Place::named(name)?;
        apt::ensure_all("the control plane", apt::CLUSTER_TOOLS)?;
        kubernetes::ensure_built()?;
        supervise::claimed(&place, life::remove)?;
        let alone = Self { place };
        step("bringing up etcd and an API server", || alone.start(user))?;
        Ok(alone)
    }

    fn start(&self, user: &str) -> Result<()> {
        let place = &self.place;
        fs::create_dir_all(place.file("logs")?).context("making the cluster's folder")?;
        cgroups::create(&place.cgroup().join("cp"))?;
        network::create(place)?;
        control::prepare(place)?;
        control::audit(place, user)?;
        let services = control::services(place)?;
        services
            .iter()
            .filter(|it| matches!(it.name.as_str(), "etcd" | "api-server"))
            .try_for_each(|it| it.start(place))?;
        until("the API server is ready", || control::is_ready(place))
    }

    /// kubectl with the rights of an administrator.
    pub(crate) fn kubectl(&self) -> Result<Run> {
        control::kubectl(&self.place)
    }

    /// Runs what is appended beside the API server.
    pub(crate) fn beside(&self) -> Run {
        service::control_plane(&self.place)
    }

    /// The folder of its credentials and logs.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        self.place.folder()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(error) = life::down(&self.place) {
            eprintln!("the control plane stays behind: {error:#}");
        }
    }
}
