//! The mesh in the cluster, from the manifests that users apply.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::{Cluster, SYSTEM};
use crate::process::{self, Finished};
use crate::wait::patience;

/// Held by the test that looks whether the mesh is there, and installs it.
static ONE: Mutex<()> = Mutex::new(());

impl Cluster {
    /// [`Cluster::install_mesh`], unless the authority and both agents are ready already.
    pub(super) fn ensure_mesh(&self) -> Result<()> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if self.mesh_is_whole() {
            return Ok(());
        }
        self.install_mesh()
    }

    fn mesh_is_whole(&self) -> bool {
        let ask = |workload: &str, path: &str| {
            let path = format!("--output=jsonpath={path}");
            self.kubectl(&["--namespace", SYSTEM, "get", workload, &path])
                .unwrap_or_default()
        };
        // Generations tell whether what is counted is of what is asked for now.
        let agents = ask(
            "daemonset/isthmus-agent",
            "{.metadata.generation} {.status.observedGeneration} {.metadata.deletionTimestamp} \
             {.status.numberReady} {.status.updatedNumberScheduled} {.status.currentNumberScheduled}",
        );
        let authority = ask("deployment/isthmus-ca", "{.status.readyReplicas}");
        let agents: Vec<_> = agents.split(' ').collect();
        matches!(agents[..], [asked, seen, "", "2", "2", "2"] if asked == seen)
            && authority.trim() == "1"
    }

    /// Applies `deploy/`, and waits until the authority and both agents are ready.
    ///
    /// # Errors
    /// Carries what kubectl said, and what the pods of the mesh printed last when they do not
    /// become ready.
    pub fn install_mesh(&self) -> Result<()> {
        // The kinds first: an object of a kind that is not served yet is refused.
        for folder in ["crds", ""] {
            let folder = manifests()?.join(folder);
            self.kubectl(&["apply", "--server-side", "--kustomize", text(&folder)?])?;
            self.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "customresourcedefinitions",
                "--all",
            ])?;
        }
        let timeout = format!("--timeout={}s", patience(120).as_secs());
        for workload in ["deployment/isthmus-ca", "daemonset/isthmus-agent"] {
            self.kubectl(&[
                "--namespace",
                SYSTEM,
                "rollout",
                "status",
                &timeout,
                workload,
            ])
            .with_context(|| self.mesh_logs())?;
        }
        Ok(())
    }

    /// Removes what [`Cluster::install_mesh`] applied, all at once, as one who did not read how:
    /// the namespace is deleted first, and with it the agents' pods before their DaemonSet, and
    /// what lets them ask for it. Waits until all is gone.
    ///
    /// # Errors
    /// Carries what kubectl said.
    pub fn uninstall_at_once(&self) -> Result<()> {
        let folder = manifests()?;
        let delete = ["delete", "--kustomize", text(&folder)?];
        self.kubectl(&[&delete[..], &["--ignore-not-found", "--wait"]].concat())
            .map(drop)
    }

    /// Removes the mesh with `mesh-agent uninstall`, as one who has no kubectl does.
    ///
    /// # Errors
    /// Carries what the command said.
    pub fn uninstall_by_command(&self) -> Result<()> {
        self.mesh_agent(&["uninstall", "--crds"], None)?
            .success()
            .map(drop)
            .with_context(|| self.mesh_logs())
    }

    /// What `mesh-agent precheck` prints, whatever it finds.
    ///
    /// # Errors
    /// Fails when it cannot be run.
    pub fn precheck(&self) -> Result<String> {
        let finished = self.mesh_agent(&["precheck"], None)?;
        Ok(format!("{}{}", finished.stdout, finished.stderr))
    }

    /// Runs `mesh-agent` where an administrator would: outside the nodes, with the cluster's
    /// kubeconfig or the given one.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn mesh_agent(&self, words: &[&str], kubeconfig: Option<&Path>) -> Result<Finished> {
        let name = self.folder().file_name().unwrap_or_default();
        let admin = self.admin_kubeconfig();
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--net=/run/netns/isthmus-{}-cp",
                name.to_string_lossy()
            ))
            .arg("--")
            .arg(process::own_program("mesh-agent")?)
            .args(words)
            .env("KUBECONFIG", kubeconfig.unwrap_or(&admin));
        process::run(command)
    }

    /// The kubeconfig of the cluster's administrator.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    /// What the pods of the mesh look like, and the last that they printed.
    #[must_use]
    pub fn mesh_logs(&self) -> String {
        let questions: [&[&str]; 3] = [
            &["get", "pods", "--output=wide"],
            &["get", "events"],
            &[
                "logs",
                "--prefix",
                "--tail=30",
                "--ignore-errors",
                "--selector=app.kubernetes.io/part-of=isthmus",
            ],
        ];
        let ask = |question: &[&str]| {
            let answer = self.kubectl(&[&["--namespace", SYSTEM], question].concat());
            answer.unwrap_or_else(|error| format!("{error:#}\n"))
        };
        questions.map(ask).join("\n")
    }
}

fn manifests() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let folder = root
        .context("the tests lie in the repository")?
        .join("deploy");
    ensure!(folder.is_dir(), "{} is not there", folder.display());
    Ok(folder)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no UTF-8", path.display()))
}
