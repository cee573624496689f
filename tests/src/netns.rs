//! Named network namespaces with a life, as `ip netns` keeps them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// A network namespace, deleted on drop by who created it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    // Somebody else's stays when it is dropped.
    owned: bool,
}

impl Netns {
    /// Makes the namespace `name`, with its loopback up.
    ///
    /// # Errors
    /// Fails without root, without iproute2, or when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let netns = Self {
            name: name.to_owned(),
            path: Path::new("/run/netns").join(name),
            owned: true,
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that somebody else made, and deletes.
    ///
    /// # Errors
    /// Fails when there is none of that name.
    pub fn existing(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        ensure!(path.exists(), "there is no network namespace {name}");
        Ok(Self {
            name: name.to_owned(),
            path,
            owned: false,
        })
    }

    /// The name that `ip netns` knows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the namespace, for `setns`.
    ///
    /// # Errors
    /// Fails when it was deleted.
    pub fn open(&self) -> Result<OwnedFd> {
        Ok(File::open(&self.path)
            .with_context(|| format!("opening {}", self.path.display()))?
            .into())
    }

    /// Runs one `ip` command inside, its words separated by spaces.
    ///
    /// # Errors
    /// Carries what `ip` said.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split(' '));
        ip(&arguments)
    }

    /// Runs `work` on a thread inside the namespace. What it opens stays inside.
    ///
    /// # Errors
    /// Fails when the namespace cannot be entered, or with the error of `work`.
    ///
    /// # Panics
    /// Passes on a panic of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let netns = self.open()?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(&netns, CloneFlags::CLONE_NEWNET)
                        .context("entering the network namespace")?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a network sysctl inside, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// Fails when the kernel lacks the key.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys").join(key), value)
                .with_context(|| format!("setting {key} to {value}"))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && self.path.exists()
            && let Err(error) = ip(&["netns", "del", &self.name])
        {
            eprintln!("network namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Runs `ip` with these arguments.
///
/// # Errors
/// Carries what `ip` said.
pub fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("starting `ip`: is iproute2 installed?")?;
    ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
