//! `mesh-agent ca init` and `ca sign-csr`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{CaCommandError, DirArgs};
use crate::ca::{self, pem};
use crate::identity::{IdentityError, SystemClock, TrustDomain};

/// Options of `mesh-agent ca init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// The mesh's trust domain, as in MeshConfig.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    trust_domain: TrustDomain,
    /// Print a request for an intermediate, for an existing root to sign, and keep its key.
    #[arg(long, conflicts_with_all = ["chain", "roots"])]
    csr: bool,
    /// The answer to --csr: the intermediate, then those between it and the root (PEM).
    #[arg(long, value_name = "FILE", requires = "roots")]
    chain: Option<PathBuf>,
    /// The roots to trust (PEM); the chain leads to one of them.
    #[arg(long, value_name = "FILE", requires = "chain")]
    roots: Option<PathBuf>,
}

/// Options of `mesh-agent ca sign-csr`.
#[derive(Clone, Debug, Args)]
pub struct SignCsrArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// What `ca init --csr` or `ca rotate … --csr` printed on the other machine.
    #[arg(value_name = "FILE")]
    request: PathBuf,
}

pub(super) fn init(args: &InitArgs) -> Result<String, CaCommandError> {
    let dir = &args.dir.dir;
    if args.csr {
        return Ok(ca::request_intermediate(dir, &args.trust_domain)?);
    }
    let clock = Arc::new(SystemClock);
    let shown = dir.display();
    if let (Some(chain), Some(roots)) = (&args.chain, &args.roots) {
        let authority = ca::init_with_chain(dir, chain, roots, clock)?;
        return Ok(format!(
            "made the authority of {} in {shown}; its root's key is elsewhere\n\
             next: mesh-agent ca issue, or start an agent with this directory\n",
            authority.trust_domain()
        ));
    }
    ca::init(dir, &args.trust_domain, clock)?;
    Ok(format!(
        "made the authority of {} in {shown}, with a root for 10 years and an intermediate for one\n\
         next: back up {shown}/root-keys, which whoever has it can be everybody with\n",
        args.trust_domain
    ))
}

pub(super) fn sign_csr(args: &SignCsrArgs) -> Result<String, CaCommandError> {
    let certificate = args.dir.open()?.certify_intermediate(&args.request)?;
    Ok(pem::chain(&[certificate]))
}

pub(super) fn domain(text: &str) -> Result<TrustDomain, IdentityError> {
    TrustDomain::new(text)
}
