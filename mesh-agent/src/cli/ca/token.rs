//! `mesh-agent ca token`: node tokens. A running server sees each change at the next call.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};

use super::{CaCommandError, DirArgs};
use crate::ca::Authority;
use crate::ca::tokens::{TokenFile, Which};

/// Options of `mesh-agent ca token`.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with node tokens.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for a node and print it. It cannot be shown again.
    Create(CreateArgs),
    /// List the tokens: of which node, since when. Never the tokens themselves.
    List(DirArgs),
    /// Refuse the tokens of a node, or one token, from now on.
    Revoke(RevokeArgs),
}

/// Options of `mesh-agent ca token create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Where the authority is.
    #[command(flatten)]
    pub dir: DirArgs,
    /// The node's name, as the pods' spec.nodeName has it.
    #[arg(long, value_name = "NAME")]
    pub node: String,
}

/// Options of `mesh-agent ca token revoke`.
#[derive(Clone, Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["node", "id"])]
pub struct RevokeArgs {
    /// Where the authority is.
    #[command(flatten)]
    pub dir: DirArgs,
    /// All tokens of this node.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The one token with this id; `list` shows it.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

/// Carries the command out; what it returns is for standard output.
pub(super) fn token(args: &TokenArgs) -> Result<String, CaCommandError> {
    match &args.command {
        TokenCommand::Create(args) => {
            let created = tokens(&args.dir)?.create(&args.node)?;
            Ok(printed(&created.text, io::stdout().is_terminal()))
        }
        TokenCommand::List(dir) => {
            let mut text = String::new();
            for entry in tokens(dir)?.list()? {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{}  {}  {}", entry.id, entry.created, entry.node);
            }
            Ok(text)
        }
        TokenCommand::Revoke(args) => {
            let which = match (&args.node, &args.id) {
                (Some(node), _) => Which::Node(node.clone()),
                (None, id) => Which::Id(id.clone().unwrap_or_default()),
            };
            let count = tokens(&args.dir)?.revoke(&which)?;
            Ok(format!("revoked {count}\n"))
        }
    }
}

/// The token as it is printed. Into a file it goes without a newline: ztunnel and istio-agent
/// send the file's bytes as they are, and a header cannot hold one.
fn printed(token: &str, to_terminal: bool) -> String {
    let end = if to_terminal { "\n" } else { "" };
    format!("{token}{end}")
}

/// Of a directory that is an authority's: a token elsewhere would prove nothing.
fn tokens(dir: &DirArgs) -> Result<TokenFile, CaCommandError> {
    let authority: Authority = dir.open()?;
    Ok(TokenFile::new(authority.dir()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_token_ends_with_a_newline_on_a_terminal_alone() {
        assert_eq!(printed("isthmus-1", true), "isthmus-1\n");
        assert_eq!(printed("isthmus-1", false), "isthmus-1");
    }
}
