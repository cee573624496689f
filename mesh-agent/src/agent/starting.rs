//! What an agent tells of itself until it knows a configuration: what it waits for, since when
//! and why. Shown by [`super::front`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;

use super::view::{api_kinds, kernel_release, unheard};
use super::{Options, limits};
use crate::admin::AgentView;
use crate::admin::api::{AuditReport, ConfigStatus, KernelStatus, Limits, Status, WorkloadStatus};
use crate::config::{KindHealth, KubeHealth, Loaded};
use crate::explain::{ExplainError, Explanation, Question};
use crate::model::{Origin, Problem, Severity};
use crate::observe::{ConnectionInfo, Flow};

/// The agent before it has anything to go by.
pub(super) struct Starting {
    options: Options,
    started: Instant,
    log_lines_dropped: Counter,
    /// Of a source that is heard over the network.
    api: OnceLock<KubeHealth>,
    /// Of a configuration that was read, and is not in force yet.
    read: Mutex<Option<Vec<Problem>>>,
}

impl Starting {
    pub(super) fn new(options: &Options, log_lines_dropped: Counter) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            started: Instant::now(),
            log_lines_dropped,
            api: OnceLock::new(),
            read: Mutex::default(),
        })
    }

    /// The source has been opened.
    pub(super) fn hears(&self, api: Option<KubeHealth>) {
        if let Some(api) = api {
            self.api.get_or_init(|| api);
        }
    }

    /// A first configuration has been read.
    pub(super) fn reads(&self, first: &Loaded) {
        *self.read() = Some(first.problems.clone());
    }

    fn read(&self) -> std::sync::MutexGuard<'_, Option<Vec<Problem>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is waited for, one sentence each.
    fn missing(&self) -> Vec<String> {
        if self.read().is_some() {
            let why = "the configuration was read, and the authority is being opened";
            return vec![why.to_owned()];
        }
        let first = "the configuration is being read for the first time".to_owned();
        let kinds = self.api.get().map_or_else(Vec::new, KubeHealth::kinds);
        let unlisted = kinds.into_iter().filter(|kind| !kind.synced);
        std::iter::once(first)
            .chain(unlisted.map(wanting))
            .collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let unknown = Problem {
            file: match self.api.get() {
                Some(_) => Origin::API.into(),
                None => self.options.source.to_string().into(),
            },
            object: None,
            field: String::new(),
            message: "no configuration is known yet".to_owned(),
            cure: "wait, or see what is missing; until then pods of the mesh that are not served \
                   by another agent are refused everything new"
                .to_owned(),
            severity: Severity::Error,
        };
        let waits = "without them no configuration is known, and the agent waits";
        let api = self.api.get().map(|api| unheard(api, waits));
        let read = self.read().clone();
        let all = std::iter::once(unknown).chain(api.into_iter().flatten());
        all.chain(read.into_iter().flatten()).collect()
    }
}

/// A kind that was never listed, in words.
fn wanting(kind: KindHealth) -> String {
    let name = kind.kind;
    match (kind.away_since, kind.error) {
        (Some(since), error) => {
            let (seconds, error) = (since.elapsed().as_secs(), error.unwrap_or_default());
            format!("{name} not heard for {seconds} s: {error}")
        }
        (None, _) => format!("{name} not listed yet"),
    }
}

impl AgentView for Starting {
    fn status(&self) -> Status {
        let (open_files, max_open_files) = limits::open_files();
        let problems = self.problems();
        Status {
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            instance: std::env::var(crate::admin::INSTANCE).ok(),
            uptime_s: self.started.elapsed().as_secs(),
            starting: true,
            ready: false,
            not_ready: self.missing(),
            config: ConfigStatus {
                dir: self.options.source.to_string(),
                api: self.api.get().map_or_else(Vec::new, api_kinds),
                generation: 0,
                problems: problems.iter().map(ToString::to_string).collect(),
            },
            kernel: KernelStatus {
                release: kernel_release(),
                ..KernelStatus::default()
            },
            limits: Limits {
                open_files,
                max_open_files,
                ..Limits::default()
            },
            log_lines_dropped: self.log_lines_dropped.get(),
            ..Status::default()
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        Vec::new()
    }

    fn explain(&self, _: &Question) -> Result<Explanation, ExplainError> {
        Err(ExplainError::NoConfiguration)
    }

    fn flows(&self) -> Vec<Flow> {
        Vec::new()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    fn audit(&self, _: bool) -> Result<AuditReport, String> {
        self.knows().map(|()| AuditReport::default())
    }

    fn knows(&self) -> Result<(), String> {
        Err(format!(
            "no configuration is known yet: {}",
            self.missing().join("; ")
        ))
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Err(self.missing())
    }
}

#[cfg(test)]
mod tests;
