//! `mesh-agent ready`: the readiness probe of an agent in a pod. Two agents of a node share
//! the run directory while one replaces the other, so whose answer it is matters.

use std::path::PathBuf;

use clap::Args;

use crate::admin::INSTANCE;
use crate::admin::api::Status;
use crate::admin::client::{self, ClientError};

/// Options of `mesh-agent ready`.
#[derive(Clone, Debug, Args)]
pub struct ReadyArgs {
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
}

/// Why the agent is not ready, in one sentence: the kubelet shows it in the pod's events.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotReady {
    /// Nobody answers.
    #[error("{0}")]
    Silent(String),
    /// The agent of another pod answers.
    #[error(
        "the agent that answers is of another pod ({}): this one has not started, or was replaced",
        .0.as_deref().unwrap_or("which does not say its ISTHMUS_INSTANCE")
    )]
    Another(Option<String>),
    /// It says so itself.
    #[error("the agent of node {node} is not ready: {}", .why.join("; "))]
    Itself {
        /// Its node.
        node: String,
        /// What it lacks.
        why: Vec<String>,
    },
}

/// Asks the agent. Without [`INSTANCE`] in the environment, any agent's answer counts.
pub(super) async fn run(args: &ReadyArgs) -> Result<(), NotReady> {
    let own = std::env::var(INSTANCE).ok().filter(|it| !it.is_empty());
    let answer = client::get::<Status>(&args.run_dir, "/status").await;
    judge(own.as_deref(), answer)
}

fn judge(own: Option<&str>, answer: Result<Status, ClientError>) -> Result<(), NotReady> {
    let status = answer.map_err(|error| NotReady::Silent(error.to_string()))?;
    if own.is_some() && own != status.instance.as_deref() {
        return Err(NotReady::Another(status.instance));
    }
    if status.ready {
        return Ok(());
    }
    Err(NotReady::Itself {
        node: status.node,
        why: status.not_ready,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(instance: Option<&str>, not_ready: &[&str]) -> Result<Status, ClientError> {
        Ok(Status {
            node: "n1".into(),
            instance: instance.map(Into::into),
            ready: not_ready.is_empty(),
            not_ready: not_ready.iter().map(|&why| why.into()).collect(),
            ..Status::default()
        })
    }

    #[test]
    fn only_the_own_agents_readiness_counts() {
        assert_eq!(judge(Some("a"), status(Some("a"), &[])), Ok(()));
        assert_eq!(
            judge(Some("a"), status(Some("b"), &[])),
            Err(NotReady::Another(Some("b".into())))
        );
        assert_eq!(
            judge(Some("a"), status(None, &[])),
            Err(NotReady::Another(None))
        );
        // By hand, where no pod is.
        assert_eq!(judge(None, status(Some("b"), &[])), Ok(()));
    }

    #[test]
    fn what_it_lacks_is_one_sentence() {
        let error = judge(
            None,
            status(None, &["the API server was not heard of", "x"]),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "the agent of node n1 is not ready: the API server was not heard of; x"
        );
        let path = PathBuf::from("/run/isthmus/agent.sock");
        let silent = judge(Some("a"), Err(ClientError::NotRunning { path }));
        assert!(silent.unwrap_err().to_string().contains("agent.sock"));
    }
}
