//! `mesh-agent policy simulate`: reads the folder and the flows, and shows what would change.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::{PolicyError, SimulateArgs};
use crate::admin::client;
use crate::cli::flows::source;
use crate::cli::table::{self, Kind};
use crate::cli::{CliError, Format, Query, output, remote};
use crate::config::read_folder;
use crate::observe::Flow;
use crate::simulate::{Change, Simulation, simulate};

/// The answer, with what is wrong in the folder itself.
#[derive(Serialize)]
struct Answer<'a> {
    problems: Vec<String>,
    #[serde(flatten)]
    simulation: &'a Simulation,
}

impl SimulateArgs {
    pub(super) async fn run(&self) -> Result<(), CliError> {
        let loaded = read_folder(&self.dir).map_err(PolicyError::from)?.loaded;
        let mut flows: Vec<Flow> = Vec::new();
        for path in &self.flows {
            flows.extend(saved(path)?);
        }
        if self.flows.is_empty() {
            flows = self.running().await?;
        }
        let simulation = simulate(&flows, &loaded.world);
        let problems: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
        match self.output {
            Format::Table => output::print(render(&problems, &simulation).as_bytes())?,
            Format::Json => {
                let answer = Answer {
                    problems,
                    simulation: &simulation,
                };
                let json = serde_json::to_vec(&answer).map_err(io::Error::from)?;
                output::print_json(&json)?;
            }
        }
        Ok(())
    }
}

impl SimulateArgs {
    /// The flows of the running agent.
    async fn running(&self) -> Result<Vec<Flow>, CliError> {
        let Some(place) = self.remote.place() else {
            return Ok(client::get(&self.run_dir, "/flows").await?);
        };
        let words = Query::flows(&self.remote, &self.run_dir);
        let answer = remote::output(&place, words).await?;
        Ok(serde_json::from_slice(&answer).map_err(client::ClientError::Answer)?)
    }
}

fn saved(path: &Path) -> Result<Vec<Flow>, PolicyError> {
    let text = std::fs::read(path).map_err(|source| PolicyError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| PolicyError::Flows {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn render(problems: &[String], it: &Simulation) -> String {
    let mut out = String::new();
    if !problems.is_empty() {
        out.push_str("wrong in the candidate:\n");
        problems
            .iter()
            .for_each(|it| out.push_str(&format!("  {it}\n")));
        out.push('\n');
    }
    out.push_str(&format!("{} flows were judged\n", it.judged));
    section(&mut out, "newly denied", &it.newly_denied);
    section(&mut out, "newly allowed", &it.newly_allowed);
    if !it.unjudged.is_empty() {
        section(&mut out, "not judged", &it.unjudged);
    }
    if !it.never_matched.is_empty() {
        out.push_str("\nrules that matched no flow:\n");
        let rules = it.never_matched.iter();
        rules.for_each(|rule| out.push_str(&format!("  {rule}\n")));
    }
    if !it.suggestion.is_empty() {
        out.push_str("\nthe least that lets in what was let in:\n\n");
        out.push_str(&it.suggestion);
    }
    out
}

fn section(out: &mut String, title: &str, changes: &[Change]) {
    if changes.is_empty() {
        return out.push_str(&format!("\n{title}: none\n"));
    }
    out.push_str(&format!("\n{title}:\n"));
    let columns = [
        ("SOURCE", Kind::Elastic),
        ("DESTINATION", Kind::Elastic),
        ("PORT", Kind::Number),
        ("COUNT", Kind::Number),
        ("REASON", Kind::Whole),
    ];
    let rows: Vec<_> = changes.iter().map(row).collect();
    out.push_str(&table::render(&columns, &rows));
    for change in changes {
        let who = source(change.source_identity.as_deref(), change.source_ip);
        let (to, port, why) = (&change.destination, change.port, &change.detail);
        out.push_str(&format!("  {who} -> {to}:{port}: {why}\n"));
    }
}

fn row(change: &Change) -> Vec<String> {
    vec![
        source(change.source_identity.as_deref(), change.source_ip),
        change.destination.clone(),
        change.port.to_string(),
        change.count.to_string(),
        change.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
