//! Commands that ask an agent, from a workstation: `--node` and `--pod` name the agent, and the
//! command runs in that agent's pod, by way of the Kubernetes API. It needs no more than
//! `kubectl exec` does, and answers as the agent's own version does.

mod exec;
mod find;

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::policy::{PolicyArgs, PolicyCommand};
use super::{Cli, Command, Format, Query, Tool, output};
use crate::install::{NAMESPACE, said};
use crate::kubernetes::{self, KubernetesError, Retries};

/// Names the agent to ask, if it is not the one of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct RemoteArgs {
    /// Ask the agent of this node, through the Kubernetes API of the kubeconfig.
    #[arg(long, value_name = "NODE", conflicts_with = "pod")]
    pub node: Option<String>,
    /// Ask the agent of the node that has this pod, through the Kubernetes API of the kubeconfig.
    #[arg(long, value_name = "NS/POD")]
    pub pod: Option<PodName>,
}

/// A pod of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The agent to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// That of a node.
    Node(String),
    /// That of a pod's node.
    Pod(PodName),
}

/// Why the agent of a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The command asks no agent.
    #[error(
        "--node and --pod before the command are for those that ask a running agent: status, \
         workloads, connections, problems, audit, explain, flows, policy simulate"
    )]
    NotAsking,
    /// The agent is named twice.
    #[error("--node or --pod is there before and after the command; keep one of them")]
    Twice,
    /// The cluster is not known.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The caller lacks a permission.
    #[error("you may not {what}: {message}; ask for the permission to {permission}")]
    Forbidden {
        /// The refused request.
        what: String,
        /// The API server's sentence.
        message: String,
        /// The verb, resource and namespace that are needed.
        permission: String,
    },
    /// The API server refused otherwise, or was not reached.
    #[error("cannot {what}: {}", said(source))]
    Api {
        /// The request.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// There is no such pod.
    #[error("there is no pod {pod}; `kubectl -n {ns} get pods` lists those that are there", pod = .0, ns = .0.namespace)]
    NoPod(PodName),
    /// The pod is not scheduled.
    #[error(
        "pod {pod} is on no node yet, so no agent serves it; `kubectl -n {ns} describe pod {name}` \
         says why", pod = .0, ns = .0.namespace, name = .0.name
    )]
    NoNode(PodName),
    /// The mesh is not installed.
    #[error(
        "no agent runs in namespace {NAMESPACE} of this cluster; `mesh-agent install` brings the \
         mesh into it"
    )]
    NoAgents,
    /// Other nodes have one.
    #[error("no agent runs on node {node}; there are agents on {others}")]
    NoAgent {
        /// The node that was named.
        node: String,
        /// The nodes that have one.
        others: String,
    },
    /// The agent's container does not run.
    #[error(
        "the agent of node {node} is not running: {why}; \
         `kubectl -n {NAMESPACE} describe pod {pod}` shows more"
    )]
    NotRunning {
        /// Its node.
        node: String,
        /// Its pod.
        pod: String,
        /// The state of pod and container.
        why: String,
    },
    /// The command was not started.
    #[error("the command was not run in pod {pod}: {message}")]
    NotRun {
        /// The agent's pod.
        pod: String,
        /// The reason as the kubelet gives it.
        message: String,
    },
    /// The connection ended before the command.
    #[error("the connection to the API server ended before the command in pod {pod} did{cause}")]
    Lost {
        /// The agent's pod.
        pod: String,
        /// The cause, after a colon, if it is known.
        cause: String,
    },
    /// The command failed where its output is needed.
    #[error("the agent in pod {pod} could not be asked: {message}")]
    Failed {
        /// The agent's pod.
        pod: String,
        /// What the command printed as its error.
        message: String,
    },
    /// Standard output is gone.
    #[error("cannot write what the agent answered: {0}")]
    Output(#[from] std::io::Error),
}

impl RemoteArgs {
    pub(super) fn place(&self) -> Option<Place> {
        let node = self.node.clone().map(Place::Node);
        node.or_else(|| self.pod.clone().map(Place::Pod))
    }
}

/// Runs `mesh-agent` with these words in the agent's pod, with its output and its exit code.
pub(super) async fn run(place: &Place, words: Vec<String>) -> Result<ExitCode, RemoteError> {
    let client = kubernetes::client(Retries::Client).await?;
    let pod = find::agent(&client, place).await?;
    let out = |chunk: &[u8]| output::print(chunk);
    let code = exec::exec(&client, &pod, words, out, output::print_error).await?;
    Ok(ExitCode::from(code))
}

/// The standard output of the same.
pub(super) async fn output(place: &Place, words: Vec<String>) -> Result<Vec<u8>, RemoteError> {
    let client = kubernetes::client(Retries::Client).await?;
    let pod = find::agent(&client, place).await?;
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let keep = |chunk: &[u8]| {
        out.extend_from_slice(chunk);
        Ok(())
    };
    let keep_errors = |chunk: &[u8]| {
        errors.extend_from_slice(chunk);
        Ok(())
    };
    match exec::exec(&client, &pod, words, keep, keep_errors).await? {
        0 => Ok(out),
        _ => Err(RemoteError::Failed {
            pod,
            message: String::from_utf8_lossy(&errors).trim().to_owned(),
        }),
    }
}

impl Cli {
    /// The command, with the agent that is named before it.
    ///
    /// # Errors
    /// When the command asks no agent, or names one itself.
    pub fn resolve(self) -> Result<Command, RemoteError> {
        let Self {
            remote,
            mut command,
        } = self;
        if remote == RemoteArgs::default() {
            return Ok(command);
        }
        let own = match &mut command {
            Command::Tool(tool) => tool.remote(),
            Command::Run(_) | Command::Cni(_) => None,
        };
        match own {
            None => Err(RemoteError::NotAsking),
            Some(own) if *own != RemoteArgs::default() => Err(RemoteError::Twice),
            Some(own) => {
                *own = remote;
                Ok(command)
            }
        }
    }
}

impl Tool {
    fn remote(&mut self) -> Option<&mut RemoteArgs> {
        match self {
            Self::Status(query)
            | Self::Workloads(query)
            | Self::Connections(query)
            | Self::Flows(query)
            | Self::Problems(query) => Some(&mut query.remote),
            Self::Explain(args) => Some(&mut args.query.remote),
            Self::Audit(args) => Some(&mut args.query.remote),
            Self::Policy(PolicyArgs {
                command: PolicyCommand::Simulate(args),
            }) => Some(&mut args.remote),
            _ => None,
        }
    }

    /// The command as the agent of a node is to run it, if another agent is named. Simulations
    /// run here: their folder is here.
    pub(super) fn forwarded(&self) -> Option<(Place, Vec<String>)> {
        let (query, words) = match self {
            Self::Status(query) => (query, words(&["status"])),
            Self::Workloads(query) => (query, words(&["workloads"])),
            Self::Connections(query) => (query, words(&["connections"])),
            Self::Flows(query) => (query, words(&["flows"])),
            Self::Problems(query) => (query, words(&["problems"])),
            Self::Audit(args) => {
                let probe = args.probe.then_some("--probe");
                let words = std::iter::once("audit").chain(probe);
                (&args.query, words.map(str::to_owned).collect())
            }
            Self::Explain(args) => {
                let mut words = words(&["explain"]);
                words.extend(args.connection.clone());
                let port = args.port.map(|port| port.to_string());
                let options = [
                    ("--from", &args.from),
                    ("--to", &args.to),
                    ("--port", &port),
                ];
                for (option, value) in options {
                    let value = value.iter().map(|value| format!("{option}={value}"));
                    words.extend(value);
                }
                (&args.query, words)
            }
            _ => return None,
        };
        let place = query.remote.place()?;
        Some((place, query.with_options(words)))
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl Query {
    fn with_options(&self, mut words: Vec<String>) -> Vec<String> {
        let name = self.output.to_possible_value();
        let name = name.as_ref().map_or("table", |value| value.get_name());
        words.push(format!("--output={name}"));
        words.push(format!("--run-dir={}", self.run_dir.display()));
        words
    }

    /// Asks for the recorded flows as JSON.
    pub(super) fn flows(remote: &RemoteArgs, run_dir: &std::path::Path) -> Vec<String> {
        let query = Self {
            output: Format::Json,
            run_dir: run_dir.to_owned(),
            remote: remote.clone(),
        };
        query.with_options(words(&["flows"]))
    }
}

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("write it as NAMESPACE/POD".to_owned()),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests;
