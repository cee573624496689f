//! `mesh-agent ca rotate`: the intermediate, the root in three steps, and where
//! it stands.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CaCommandError, DirArgs};
use crate::ca::{self, RotationStatus};
use crate::cli::output::Format;
use crate::identity::clock::display;

/// Options of `mesh-agent ca rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make a new intermediate; it signs a minute later.
    Intermediate(IntermediateArgs),
    /// Replace the root: prepare, activate, finish.
    Root(RootArgs),
    /// Say where rotations stand and what comes next.
    Status(StatusArgs),
}

#[derive(Clone, Debug, Args)]
struct IntermediateArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Print a request for the off-line root to sign, and keep its key.
    #[arg(long, conflicts_with_all = ["chain", "now"])]
    csr: bool,
    /// The answer to --csr (PEM).
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Let it sign at once: when the old one's key is known to somebody.
    #[arg(long)]
    now: bool,
}

#[derive(Clone, Debug, Args)]
struct RootArgs {
    #[command(subcommand)]
    step: RootStep,
}

#[derive(Clone, Debug, Subcommand)]
enum RootStep {
    /// Trust a new root beside the old one.
    Prepare(PrepareArgs),
    /// Sign below the new root from now on.
    Activate(DirArgs),
    /// Trust the old root no more.
    Finish(FinishArgs),
}

#[derive(Clone, Debug, Args)]
struct PrepareArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Print a request for the new off-line root to sign, and keep its key.
    #[arg(long, conflicts_with_all = ["chain", "roots"])]
    csr: bool,
    /// The answer to --csr (PEM).
    #[arg(long, value_name = "FILE", requires = "roots")]
    chain: Option<PathBuf>,
    /// The new root (PEM).
    #[arg(long, value_name = "FILE", requires = "chain")]
    roots: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
struct FinishArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Cut those who have certificates below the old root only.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn rotate(args: &RotateArgs) -> Result<String, CaCommandError> {
    match &args.what {
        What::Intermediate(args) => intermediate(args),
        What::Root(RootArgs { step }) => match step {
            RootStep::Prepare(args) => prepare(args),
            RootStep::Activate(dir) => {
                let step = dir.open()?.activate_root()?;
                Ok(format!(
                    "intermediate {} below the new root signs from now on\n\
                     next: when the last certificate below the old root has expired, within 24 h: \
                     mesh-agent ca rotate root finish\n",
                    step.issuer
                ))
            }
            RootStep::Finish(args) => {
                let dropped = args.dir.open()?.finish_root(args.force)?;
                Ok(format!("no longer trusted: {}\n", dropped.join(", ")))
            }
        },
        What::Status(args) => {
            let status = args.dir.open()?.rotation()?;
            match args.output {
                Format::Json => {
                    Ok(serde_json::to_string_pretty(&status).map_err(std::io::Error::from)? + "\n")
                }
                Format::Table => Ok(render(&status)),
            }
        }
    }
}

fn intermediate(args: &IntermediateArgs) -> Result<String, CaCommandError> {
    let authority = args.dir.open()?;
    if args.csr {
        return Ok(ca::request_intermediate(
            authority.dir(),
            authority.trust_domain(),
        )?);
    }
    let step = authority.rotate_intermediate(args.chain.as_deref(), args.now)?;
    Ok(match step.signs_from {
        Some(from) => format!(
            "intermediate {} is published\n\
             next: nothing; it signs from {}, when all agents have its revocation list\n",
            step.issuer,
            display(from)
        ),
        None => format!(
            "intermediate {} signs from now on\n\
             next: nothing; agents renew their certificates by themselves\n",
            step.issuer
        ),
    })
}

fn prepare(args: &PrepareArgs) -> Result<String, CaCommandError> {
    let authority = args.dir.open()?;
    if args.csr {
        return Ok(ca::request_intermediate(
            authority.dir(),
            authority.trust_domain(),
        )?);
    }
    let offline = args.chain.as_deref().zip(args.roots.as_deref());
    let step = authority.prepare_root(offline)?;
    Ok(format!(
        "a new root is trusted beside the old one; intermediate {} waits\n\
         next: when all agents know it (they are told at once; give those that are cut off time): \
         mesh-agent ca rotate root activate\n",
        step.issuer
    ))
}

fn render(status: &RotationStatus) -> String {
    let mut out = format!(
        "signing   intermediate {} until {}\nroot      {}\ntrusted   {}\nkeys here {}\n",
        status.active,
        status.active_until,
        status.root,
        status.roots.join(", "),
        if status.keys.is_empty() {
            "none".into()
        } else {
            status.keys.join(", ")
        },
    );
    if let Some(what) = status.rotating {
        out += &format!("rotating  the {what}\n");
    }
    if !status.retiring.is_empty() {
        out += &format!(
            "retiring  {}: {} certificates in use\n",
            status.retiring.join(", "),
            status.in_use
        );
    }
    out + &format!("next      {}\n", status.next_step)
}
