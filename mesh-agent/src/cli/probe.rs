//! `mesh-agent probe`: what the agent runs inside a pod to see whether its connections are
//! captured. Hidden: it is the audit's, not a person's.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::sched::{CloneFlags, setns};

/// Time to connect, and then to hear the end of the connection.
const LIMIT: Duration = Duration::from_secs(2);

/// Options of `mesh-agent probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// The cgroup to be in.
    #[arg(long, value_name = "DIR")]
    pub cgroup: PathBuf,
    /// The network namespace to be in.
    #[arg(long, value_name = "FILE")]
    pub netns: PathBuf,
    /// Where to connect to.
    #[arg(long, value_name = "IP:PORT")]
    pub to: SocketAddr,
}

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The pod cannot be entered.
    #[error("cannot enter the pod's {what}: {source}")]
    Enter {
        /// Its cgroup or its network namespace.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody took the connection.
    #[error("connecting to {to} from inside the pod: {source}")]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Connects from inside, and waits for the other end to close.
pub(super) fn run(args: &ProbeArgs) -> Result<(), ProbeError> {
    let enter = |what| move |source| ProbeError::Enter { what, source };
    let netns = File::open(&args.netns).map_err(enter("network namespace"))?;
    // This process has one thread, and ends here.
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .map_err(enter("network namespace"))?;
    fs::write(args.cgroup.join("cgroup.procs"), "0").map_err(enter("cgroup"))?;
    let to = args.to;
    let connect = |source| ProbeError::Connect { to, source };
    let mut stream = TcpStream::connect_timeout(&to, LIMIT).map_err(connect)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(connect)?;
    // How it ends does not matter: the agent knows whether it was there.
    let _end = stream.read(&mut [0; 1]);
    Ok(())
}
