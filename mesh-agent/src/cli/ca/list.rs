//! `mesh-agent ca list`: the journal, as a table or as JSON.

use clap::Args;

use super::{CaCommandError, DirArgs};
use crate::ca::Entry;
use crate::cli::human;
use crate::cli::output::Format;
use crate::cli::table::{self, Kind};
use crate::identity::SpiffeUri;

/// Options of `mesh-agent ca list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Only this identity's.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeUri>,
    /// Also what has expired.
    #[arg(long)]
    all: bool,
}

pub(super) fn list(args: &ListArgs) -> Result<String, CaCommandError> {
    let identity = args.identity.as_ref().map(ToString::to_string);
    let found = args.dir.open()?.issued(identity.as_deref(), args.all)?;
    match args.output {
        Format::Json => {
            Ok(serde_json::to_string_pretty(&found).map_err(std::io::Error::from)? + "\n")
        }
        Format::Table => Ok(render(&found)),
    }
}

fn render(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing that is valid was issued; --all shows what has expired\n".into();
    }
    let columns = [
        ("SERIAL", Kind::Whole),
        ("IDENTITY", Kind::Elastic),
        ("NODE", Kind::Elastic),
        ("UNTIL", Kind::Whole),
        ("STATE", Kind::Whole),
    ];
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            vec![
                entry.serial.clone(),
                human::identity(&entry.identity).to_owned(),
                entry.node.clone(),
                entry.not_after.clone(),
                entry.state.to_owned(),
            ]
        })
        .collect();
    table::render(&columns, &rows)
}
