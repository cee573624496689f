//! Keeps private keys, which are in this process's memory, out of core dumps. The binary calls
//! it before anything else, for the agent as for its tools.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Has the kernel write no core of this process, to a file or to a collector, and lets no
/// process without `CAP_SYS_PTRACE` attach to it or read its memory (`PR_SET_DUMPABLE`,
/// prctl(2)). The limit, which does not hold for collectors, says so where people look.
///
/// # Errors
/// The system's, if it refuses either; neither needs a privilege.
pub fn forbid() -> std::io::Result<()> {
    set_dumpable(false)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}
