mod authority;
mod callers;
mod limits;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::ca::authorize::Denial;
use crate::ca::client::{RemoteCa, RemoteSettings};
use crate::ca::{Requester, init};
use crate::identity::fixtures::{ManualClock, domain, epoch};
use crate::identity::{BoxFuture, SpiffeId};

/// Accepts the token `token-of-<node>`, and all identities of that node but `denied`.
#[derive(Default)]
struct Rules {
    /// Callers cannot be checked.
    failing: bool,
    /// No question is ever answered.
    silent: bool,
}

impl Authorizer for Rules {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        _: IpAddr,
    ) -> BoxFuture<'a, Result<Requester, Denial>> {
        Box::pin(async move {
            if self.silent {
                std::future::pending::<()>().await;
            }
            if self.failing {
                let cause = std::io::Error::other("the secret address of our database");
                return Err(Denial::Unavailable(Arc::new(cause)));
            }
            let node = token
                .strip_prefix("token-of-")
                .ok_or(Denial::UnknownToken)?;
            Ok(Requester { node: node.into() })
        })
    }

    fn authorize<'a>(
        &'a self,
        caller: &'a Requester,
        id: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), Denial>> {
        Box::pin(async move {
            match id.service_account() {
                "denied" => Err(Denial::NotOnNode {
                    node: caller.node.clone(),
                    id: id.clone(),
                }),
                _ => Ok(()),
            }
        })
    }
}

/// A real authority behind a real server on the loopback interface.
struct Running {
    dir: tempfile::TempDir,
    authority: Arc<Authority>,
    clock: Arc<ManualClock>,
    address: SocketAddr,
    serial: watch::Receiver<String>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(rules: Rules) -> Self {
        Self::start_with(|_| Arc::new(rules)).await
    }

    async fn start_with(authorizer: impl FnOnce(&Path) -> Arc<dyn Authorizer>) -> Self {
        Self::start_limited(authorizer, None).await
    }

    async fn start_limited(
        authorizer: impl FnOnce(&Path) -> Arc<dyn Authorizer>,
        limits: Option<Limits>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let clock = ManualClock::at(epoch());
        let authority = Arc::new(init(&ca, &domain("cluster.local"), clock.clone()).unwrap());
        let settings = Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            names: vec![ServerName::try_from("127.0.0.1").unwrap()],
        };
        let mut server = Server::bind(
            settings,
            Arc::clone(&authority),
            authorizer(&ca),
            clock.clone(),
        )
        .await
        .unwrap();
        server.limits = limits.unwrap_or(server.limits);
        let (stop, stopped) = watch::channel(false);
        let (address, serial) = (server.address(), server.certificate_serial());
        std::fs::write(dir.path().join("roots.pem"), authority.roots_pem().unwrap()).unwrap();
        std::fs::write(dir.path().join("token"), "token-of-node-1").unwrap();
        Self {
            task: tokio::spawn(server.run(stopped)),
            dir,
            authority,
            clock,
            address,
            serial,
            stop,
        }
    }

    fn settings(&self) -> RemoteSettings {
        RemoteSettings {
            endpoint: format!("https://{}", self.address),
            roots_file: self.dir.path().join("roots.pem"),
            token_file: self.dir.path().join("token"),
            crl_file: None,
            lifetime: None,
            state_dir: self.dir.path().join("state"),
        }
    }

    fn client(&self) -> Arc<RemoteCa> {
        RemoteCa::new(self.settings(), self.clock.clone()).unwrap()
    }

    fn set_token(&self, token: &str) {
        std::fs::write(self.dir.path().join("token"), token).unwrap();
    }
}

/// For what must happen, so that a test that hangs says where.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(30), event).await;
    waited.expect("it did not happen")
}
