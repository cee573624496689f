//! `cargo xtask bench`: builds with optimisations, then runs the program that measures.

use anyhow::Result;

use crate::cluster::Alone;
use crate::command::Run;
use crate::{apt, build};

/// What is measured by itself.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Part {
    /// The time of a verdict among 10 to 10,000 policies
    Policy,
    /// One agent against an API server that holds a large cluster's objects
    Scale {
        /// Sizes of the cluster, in pods, ascending
        #[arg(long, value_delimiter = ',', default_value = "5000,20000,50000")]
        pods: Vec<u32>,
        /// Services of the largest
        #[arg(long, default_value_t = 5000)]
        services: u32,
    },
}

/// The account of the agent, whose requests are counted.
const AGENT: &str = "system:serviceaccount:isthmus-system:isthmus-agent";

const TOOLS: &[apt::Need] = &[("ip", "iproute2")];

pub(crate) fn run() -> Result<()> {
    crate::require_root()?;
    apt::ensure_all("the bench", TOOLS)?;
    println!("Building the kernel programs, the agent and the bench, with optimisations.");
    Run::new(build::everything(true)?.join("bench")).replace()
}

/// Measures the policy alone, optimised.
pub(crate) fn policy() -> Result<()> {
    let words = "run --release --package mesh-agent --example policy_bench";
    build::cargo(words).replace()
}

/// Measures one agent among so many objects. The manifests are those that are shipped.
pub(crate) fn scale(pods: &[u32], services: u32) -> Result<()> {
    crate::require_root()?;
    let folder = build::everything(true)?;
    let control = Alone::up("scale", AGENT)?;
    for file in [
        "-k deploy/crds",
        "-f deploy/base/namespace.yaml",
        "-f deploy/base/agent-rbac.yaml",
        "-f deploy/base/ca-rbac.yaml",
    ] {
        control.kubectl()?.words("apply").words(file).output()?;
    }
    let pods: Vec<String> = pods.iter().map(u32::to_string).collect();
    control
        .beside()
        .arg(folder.join("scale"))
        .arg("--cluster")
        .arg(control.folder()?)
        .arg(format!("--pods={}", pods.join(",")))
        .arg(format!("--services={services}"))
        .show()
}
