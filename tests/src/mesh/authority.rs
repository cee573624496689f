//! The mesh's certificate authority, as a person keeps one: a folder, the commands on it, and
//! `mesh-agent ca serve` as a process of its own.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::World;
use super::node::{Node, free_port};
use crate::cgroup::Cgroup;
use crate::process::{Finished, own_program, run};
use crate::report;
use crate::wait::{patience, until};

/// An authority. The process that serves it is killed on drop, and its log is printed when the
/// test failed.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    dir: PathBuf,
    listen: SocketAddr,
    server: Mutex<Option<Server>>,
    cgroup: Cgroup,
    world: Arc<World>,
}

/// The process that serves.
#[derive(Debug)]
struct Server(Child);

impl Authority {
    /// Makes an authority of the mesh's trust domain; it is not served yet.
    pub(super) fn create(world: Arc<World>) -> Result<Self> {
        let authority = Self::at(world, "authority/ca")?;
        authority.ca("init --trust-domain cluster.local")?;
        Ok(authority)
    }

    /// The one that agents have in their state folder, for its commands alone.
    pub(super) fn embedded(world: Arc<World>) -> Result<Self> {
        Self::at(world, "state/ca")
    }

    fn at(world: Arc<World>, dir: &str) -> Result<Self> {
        let folder = world.folder.path().join("authority");
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            dir: world.folder.path().join(dir),
            folder,
            listen: free_port()?,
            server: Mutex::default(),
            cgroup: world.cgroup.child("authority")?,
            world,
        })
    }

    /// Runs `mesh-agent ca WORDS --dir DIR`.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn try_ca(&self, words: &str) -> Result<Finished> {
        let mut command = Command::new(own_program("mesh-agent")?);
        command
            .arg("ca")
            .args(words.split_whitespace())
            .arg("--dir")
            .arg(&self.dir)
            .current_dir(&self.folder);
        run(command)
    }

    /// As [`Authority::try_ca`], and gives what it printed.
    ///
    /// # Errors
    /// Carries both outputs when it failed.
    pub fn ca(&self, words: &str) -> Result<String> {
        let finished = self.try_ca(words)?;
        finished.success().with_context(|| format!("ca {words}"))
    }

    /// What was issued and is valid, oldest first.
    ///
    /// # Errors
    /// Fails when the command does.
    pub fn list(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.ca("list -o json")?)?)
    }

    /// The entry of one certificate, by its serial number.
    ///
    /// # Errors
    /// Fails when it was never issued.
    pub fn entry(&self, serial: &str) -> Result<Value> {
        let all: Vec<Value> = serde_json::from_str(&self.ca("list --all -o json")?)?;
        let found = all.into_iter().find(|entry| entry["serial"] == serial);
        found.with_context(|| format!("{serial} is not in the journal"))
    }

    /// Starts the server and waits until it says that it is ready. Each time at the same address.
    ///
    /// # Errors
    /// Carries its log when it ends instead.
    pub fn start(&self) -> Result<()> {
        let readies = self.readies();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(own_program("mesh-agent")?);
        command
            .args(["ca", "serve", "--dir"])
            .arg(&self.dir)
            .args(["--listen", &self.listen.to_string()])
            .args(["--name", &self.listen.ip().to_string()])
            .arg("--config")
            .arg(self.world.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut server = Server(command.spawn().context("starting mesh-agent ca serve")?);
        // What is in the cgroup goes with the world, even when the test is killed.
        fs::write(
            self.cgroup.path().join("cgroup.procs"),
            server.0.id().to_string(),
        )?;
        until(
            "the authority is ready",
            patience(60),
            || {
                if let Some(status) = server.0.try_wait()? {
                    return Ok(Some(Err(anyhow::anyhow!("it ended with {status}"))));
                }
                Ok((self.readies() > readies).then_some(Ok(())))
            },
            || self.log_text(),
        )?
        .with_context(|| self.log_text())?;
        *self.lock() = Some(server);
        Ok(())
    }

    /// Kills the server as `kill -9` does and waits until it is gone.
    ///
    /// # Errors
    /// Fails when none runs.
    pub fn kill9(&self) -> Result<()> {
        let mut server = self.lock().take().context("the authority is not served")?;
        let ended = server.0.try_wait()?;
        ensure!(ended.is_none(), "it had ended already: {ended:?}");
        // Dropping it kills it and waits.
        Ok(())
    }

    /// Has the agent of `node` certified here, with a token of its own and a state folder of its
    /// own; `more` are further options of the agent. For agents that are started after this.
    ///
    /// # Errors
    /// Fails when no token can be made.
    pub fn certify(&self, node: &Node, more: &[&str]) -> Result<()> {
        let roots = self.folder.join("roots.pem");
        fs::write(&roots, self.ca("bundle")?)?;
        self.give_token(node, node.name())?;
        let state = self.folder.join(format!("{}-state", node.name()));
        fs::create_dir_all(&state)?;
        let token = self.token_file(node);
        let text = |path: &Path| path.display().to_string();
        let url = format!("https://{}", self.listen);
        let own = [
            ["--ca", &url],
            ["--ca-roots", &text(&roots)],
            ["--ca-token", &text(&token)],
            ["--state-dir", &text(&state)],
        ];
        node.set_options(&[own.as_flattened(), more].concat());
        Ok(())
    }

    /// Puts a fresh token of the node called `whose` where the agent of `node` reads its own.
    ///
    /// # Errors
    /// Fails when no token can be made.
    pub fn give_token(&self, node: &Node, whose: &str) -> Result<()> {
        let token = self.ca(&format!("token create --node {whose}"))?;
        let (file, hidden) = (self.token_file(node), self.folder.join(".token"));
        fs::write(&hidden, token)?;
        Ok(fs::rename(hidden, file)?)
    }

    /// The lines that the server logged.
    ///
    /// # Errors
    /// Never so far; a server that never ran has logged nothing.
    pub fn log(&self) -> Result<Vec<Value>> {
        let text = self.log_text();
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// A folder of the authority's own, for what its commands write.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The state folder of a node that [`Authority::certify`] was called for.
    #[must_use]
    pub fn state_of(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}-state", node.name()))
    }

    fn token_file(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}.token", node.name()))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("serve.log")
    }

    fn log_text(&self) -> String {
        fs::read(self.log_file())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    fn readies(&self) -> usize {
        self.log_text().matches("the authority is ready").count()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.lock().take();
        report::note("the authority logged", &self.log_text());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
