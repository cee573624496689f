//! Runs a program that builds a world, and removes the world however the program ends: by
//! itself, by a panic, by Ctrl-C. The demo and the bench are run so.
//!
//! The work is done by a second process in a session of its own, so that a Ctrl-C on the
//! terminal reaches only the supervisor, and so that what the work started may outlive the
//! terminal where that is wanted. Nothing of the removal then depends on where the work stood:
//! everything is found by the world's name.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};

/// The right to build the world of one name; held by one process of the machine at a time.
#[derive(Debug)]
pub struct Claim {
    // An abstract socket leaves no file behind, and goes with its process.
    _name: UnixListener,
}

impl Claim {
    /// Claims `world`.
    ///
    /// # Errors
    /// Fails while another process holds it.
    pub fn take(world: &str) -> Result<Self> {
        let address = SocketAddr::from_abstract_name(world)?;
        match UnixListener::bind_addr(&address) {
            Ok(name) => Ok(Self { _name: name }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                bail!("another run of it is under way on this machine: wait for its end")
            }
            Err(error) => Err(error).context("claiming the name of the world"),
        }
    }
}

/// How supervised work ended. None of its processes is left, but for those that a cgroup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed, because this signal came.
    Interrupted(Signal),
}

/// To be called first by a program that [`run`] started: leaves the terminal's session.
///
/// # Errors
/// Fails for a program that was started otherwise, as the leader of a process group.
pub fn detach() -> Result<()> {
    setsid()
        .map(drop)
        .context("starting a session: this is for the supervisor to call")
}

/// Starts `work` and waits until it ends, or until SIGINT, SIGTERM or SIGHUP ends it.
///
/// Call it before any thread is started: it blocks these signals, and threads inherit that.
///
/// # Errors
/// Fails when the work cannot be started.
pub fn run(mut work: Command) -> Result<End> {
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let mut awaited = ending.into_iter().collect::<SigSet>();
    awaited.add(Signal::SIGCHLD);
    // The standard library gives children an empty mask, so this one stays here.
    awaited.thread_block()?;
    // Whoever loses its parent becomes our child: so the end of all of them can be awaited.
    prctl::set_child_subreaper(true)?;
    let mut child = work
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {work:?}"))?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let end = loop {
        let signal = awaited.wait()?;
        if ending.contains(&signal) {
            break End::Interrupted(signal);
        }
        if let Some(status) = child.try_wait()? {
            break End::Exited(status);
        }
    };
    if !matches!(end, End::Exited(status) if status.code().is_some()) {
        // Its group alone would miss it, should it not have come to make one yet.
        let _ = kill(group, Signal::SIGKILL);
        let _ = killpg(group, Signal::SIGKILL);
        child.wait()?;
        // A program such as `ip` that was about to make something must be gone before the
        // removal looks around.
        while matches!(
            waitpid(Pid::from_raw(-group.as_raw()), None),
            Ok(_) | Err(Errno::EINTR)
        ) {}
    }
    Ok(end)
}

impl End {
    /// The exit code that a shell expects of a program that ended so.
    #[must_use]
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Exited(status) => status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal)),
            Self::Interrupted(signal) => Some(128 + signal as i32),
        };
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}
