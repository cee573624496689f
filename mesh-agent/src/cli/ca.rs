//! `mesh-agent ca`: making an authority, and looking after one. One file for each
//! command; each says what it did and what comes next.

mod init;
mod issue;
mod list;
mod revoke;
mod rotate;
pub mod serve;
mod token;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use crate::ca::tokens::TokenError;
use crate::ca::{Authority, CaError, SignError};
use crate::identity::{SpiffeId, SystemClock};

/// Where the embedded authority is, unless told otherwise: below the agent's
/// state directory.
pub const DEFAULT_DIR: &str = "/var/lib/isthmus/ca";

/// Options of `mesh-agent ca`.
#[derive(Clone, Debug, Args)]
pub struct CaArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CaCommand,
}

/// The commands of an authority.
#[derive(Clone, Debug, Subcommand)]
pub enum CaCommand {
    /// Make an authority: with a root of its own, or below an off-line one.
    Init(init::InitArgs),
    /// Sign another machine's intermediate with the root in this directory.
    SignCsr(init::SignCsrArgs),
    /// Issue one certificate by hand.
    Issue(issue::IssueArgs),
    /// List what was issued.
    List(list::ListArgs),
    /// Print the trusted roots in PEM.
    Bundle(DirArgs),
    /// Replace the intermediate or the root.
    Rotate(rotate::RotateArgs),
    /// Refuse a certificate, or an identity and all its certificates, within seconds.
    Revoke(revoke::RevokeArgs),
    /// Let a revoked identity get certificates again.
    Restore(revoke::RestoreArgs),
    /// Serve the authority on the network, to agents and to clients of Istio's API.
    Serve(serve::ServeArgs),
    /// Make, list and revoke the tokens by which nodes prove who they are.
    Token(token::TokenArgs),
}

/// Where the authority is.
#[derive(Clone, Debug, Args)]
pub struct DirArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,
}

/// Why a command of an authority failed.
#[derive(Debug, thiserror::Error)]
pub enum CaCommandError {
    /// The directory, or what was asked of it.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// A certificate was refused.
    #[error("{id} is not certified: {source}")]
    Sign {
        /// Who was to be certified.
        id: SpiffeId,
        /// Why not.
        source: SignError,
    },
    /// A file of the person's own.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not {expected}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        expected: &'static str,
    },
    /// The authority cannot be served.
    #[error(transparent)]
    Serve(#[from] serve::CaServeError),
    /// The node tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl CaArgs {
    /// Carries the command out; what it returns is for standard output.
    pub(super) async fn run(&self) -> Result<String, CaCommandError> {
        match &self.command {
            CaCommand::Init(args) => init::init(args),
            CaCommand::SignCsr(args) => init::sign_csr(args),
            CaCommand::Issue(args) => issue::issue(args),
            CaCommand::List(args) => list::list(args),
            CaCommand::Bundle(args) => Ok(args.open()?.roots_pem()?),
            CaCommand::Rotate(args) => rotate::rotate(args),
            CaCommand::Revoke(args) => revoke::revoke(args),
            CaCommand::Restore(args) => revoke::restore(args),
            CaCommand::Serve(args) => serve::until_told(args).await.map(|()| String::new()),
            CaCommand::Token(args) => token::token(args),
        }
    }
}

impl DirArgs {
    fn open(&self) -> Result<Authority, CaError> {
        Authority::open(&self.dir, Arc::new(SystemClock))
    }
}
