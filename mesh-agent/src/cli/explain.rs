//! `mesh-agent explain`: why a connection would be let in or refused, or was.

mod render;

use clap::Args;

use super::{CliError, Query};
use crate::explain;

/// Options of `mesh-agent explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// A connection that happened, by its name in the access log (`connection`).
    #[arg(value_name = "CONNECTION-ID", conflicts_with_all = ["from", "to", "port"],
          required_unless_present_all = ["from", "to"])]
    pub connection: Option<String>,
    /// The pod that would connect.
    #[arg(long, value_name = "NS/POD", requires = "to")]
    pub from: Option<String>,
    /// What it would connect to: a pod, a Service, or an address.
    #[arg(long, value_name = "NS/NAME|IP:PORT", requires = "from")]
    pub to: Option<String>,
    /// The TCP port, where the destination does not say it.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// How to ask.
    #[command(flatten)]
    pub query: Query,
}

impl ExplainArgs {
    /// The question that was asked.
    ///
    /// # Errors
    /// When it is none.
    pub fn question(&self) -> Result<explain::Question, explain::QueryError> {
        match (&self.connection, &self.from, &self.to) {
            (Some(id), _, _) => explain::Question::connection(id),
            (None, Some(from), Some(to)) => {
                let query = explain::Query::new(from, to, self.port)?;
                Ok(explain::Question::Would(query))
            }
            _ => Err(explain::QueryError::Incomplete),
        }
    }

    pub(super) async fn run(&self) -> Result<(), CliError> {
        let path = self.question()?.path();
        self.query.show(&path, render::render).await
    }
}

#[cfg(test)]
mod tests;
