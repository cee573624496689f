//! The agent's administrative servers, from its start to its end: what they show, and which
//! socket is whose while two agents share a node. Opened by [`super::run`].
//!
//! `agent.sock` is the agent's whose programs are in the kernel. One that starts while another
//! serves the node has `starting.sock` until it has a configuration and takes over.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::starting::Starting;
use super::view::View;
use super::{Error, Options, TICK};
use crate::admin::api::{AuditReport, Status, WorkloadStatus};
use crate::admin::{self, Admin, AdminError, AdminSocket, AgentView, MetricsAccess, STARTING_NAME};
use crate::explain::{ExplainError, Explanation, Question};
use crate::observe::{ConnectionInfo, Flow, Registry};

/// The servers. They end when this is dropped.
pub(super) struct Front {
    options: Options,
    admin: Admin,
    shown: Arc<Shown>,
    /// Ends what serves `starting.sock`, while it does.
    beside: Option<watch::Sender<()>>,
    ended: watch::Sender<()>,
    servers: JoinSet<()>,
}

impl Front {
    /// Starts both servers, which tell of `starting` until [`Front::show`].
    pub(super) async fn open(
        options: &Options,
        registry: &Arc<Registry>,
        starting: &Arc<Starting>,
    ) -> Result<Self, Error> {
        let shown = Arc::new(Shown {
            starting: Arc::clone(starting),
            agent: OnceLock::new(),
        });
        let view = Arc::clone(&shown) as Arc<dyn AgentView>;
        let token = options.metrics_token.clone();
        let access = MetricsAccess::new(options.metrics_identities, token);
        let mut front = Self {
            options: options.clone(),
            admin: Admin::new(view, Arc::clone(registry), access),
            shown,
            beside: None,
            ended: watch::Sender::new(()),
            servers: JoinSet::new(),
        };
        // Whoever answers before our own socket is there is the agent that we replace.
        let older = admin::client::get::<Status>(&options.run_dir, "/status").await;
        front.serve_node(older.is_ok()).await?;
        // One that is not ready leaves, or can do no more for the pods than we can.
        match older.is_ok_and(|older| older.ready) {
            true => {
                tracing::info!("another agent serves the node: it goes on until this one can");
                let socket = AdminSocket::bind_as(STARTING_NAME, &options.run_dir)?;
                let over = watch::Sender::new(());
                front.serve_socket(socket, over.subscribe());
                front.beside = Some(over);
            }
            false => front.serve_agent()?,
        }
        Ok(front)
    }

    /// Whether another agent serves the node.
    pub(super) fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// Waits until nobody answers at `agent.sock` any more: for ever, if it is ours.
    pub(super) async fn left_alone(&self) {
        if !self.is_beside() {
            std::future::pending().await
        }
        let path = admin::socket_path(&self.options.run_dir);
        // Nothing tells when a process that is not ours ends.
        while UnixStream::connect(&path).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
        tracing::warn!("the agent that served the node is gone");
    }

    /// Answers at `agent.sock` from now on.
    pub(super) fn take_over(&mut self) -> Result<(), Error> {
        if self.is_beside() {
            self.serve_agent()?;
            // Its server ends with the sender, and removes its socket.
            self.beside = None;
        }
        Ok(())
    }

    /// Has the API server verify the tokens of scrapes from now on.
    pub(super) fn verify_tokens_with(&self, client: &kube::Client) {
        self.admin.metrics_access().ask_cluster(client.clone());
    }

    /// Tells of the agent itself from now on.
    pub(super) fn show(&self, view: &Arc<View>) {
        self.shown.agent.get_or_init(|| Arc::clone(view));
    }

    fn serve_agent(&mut self) -> Result<(), Error> {
        let socket = AdminSocket::bind(&self.options.run_dir)?;
        self.serve_socket(socket, self.ended.subscribe());
        Ok(())
    }

    fn serve_socket(&mut self, socket: AdminSocket, mut end: watch::Receiver<()>) {
        let admin = self.admin.clone();
        self.servers.spawn(async move {
            let until = async {
                let _ = end.changed().await;
            };
            admin.serve_socket(socket, until).await;
        });
    }

    async fn serve_node(&mut self, older: bool) -> Result<(), Error> {
        let address = self.options.admin;
        let listener = match admin::listen_node(address).await {
            Err(AdminError::Bind { source, .. })
                if older && source.kind() == ErrorKind::AddrInUse =>
            {
                None
            }
            listening => Some(listening?),
        };
        let (admin, mut end) = (self.admin.clone(), self.ended.subscribe());
        self.servers.spawn(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => when_free(address).await,
            };
            let until = async {
                let _ = end.changed().await;
            };
            admin.serve_node(listener, until).await;
        });
        Ok(())
    }
}

/// Listens on `address` once the agent that was replaced has left it.
async fn when_free(address: SocketAddr) -> tokio::net::TcpListener {
    tracing::info!(%address, "the agent that is being replaced has the admin address: waiting");
    loop {
        // Nothing tells when an address becomes free.
        tokio::time::sleep(TICK).await;
        if let Ok(listener) = admin::listen_node(address).await {
            return listener;
        }
    }
}

/// The agent, as far as it has come.
struct Shown {
    starting: Arc<Starting>,
    agent: OnceLock<Arc<View>>,
}

impl Shown {
    fn now(&self) -> &dyn AgentView {
        match self.agent.get() {
            Some(view) => &**view,
            None => &*self.starting,
        }
    }
}

impl AgentView for Shown {
    fn status(&self) -> Status {
        self.now().status()
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        self.now().workloads()
    }

    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        self.now().explain(question)
    }

    fn flows(&self) -> Vec<Flow> {
        self.now().flows()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        self.now().connections()
    }

    fn audit(&self, probe: bool) -> Result<AuditReport, String> {
        self.now().audit(probe)
    }

    fn knows(&self) -> Result<(), String> {
        self.now().knows()
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        self.now().ready()
    }
}
