//! A worker's tunnels to other nodes, and what opening a stream in one means for
//! the connection that asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::Pod;
use super::dial::{self, TunnelError};
use super::end::Failure;
use crate::hbone::{
    ConnectRequest, Cut, OpenError, Pool, PoolError, PoolSettings, PoolStats, TunnelStream,
};
use crate::identity::SpiffeId;
use crate::observe::{Reason, Security};
use crate::policy::TunnelPermit;
use crate::tls::Session;

/// The tunnels that one worker holds.
pub(super) struct Tunnels {
    pool: Pool<Key, TunnelError>,
    /// What the newest handshake of each key agreed on.
    sessions: RefCell<HashMap<Key, Security>>,
}

/// Who may share a tunnel: connections of one pod, under one certificate, to one
/// workload at one address.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    epoch: u64,
    certificate: u64,
    to: IpAddr,
    expected: SpiffeId,
}

impl Tunnels {
    pub(super) fn new() -> Self {
        Self {
            pool: Pool::new(PoolSettings::default()),
            sessions: RefCell::default(),
        }
    }

    /// Opens a stream to `request.destination`; returns once the application
    /// there has accepted.
    pub(super) async fn open(
        &self,
        pod: &Pod,
        permit: &TunnelPermit,
        request: &ConnectRequest,
    ) -> Result<(TunnelStream, Security), Failure> {
        let key = Key {
            epoch: pod.epoch(),
            certificate: pod.credential()?.generation(),
            to: request.destination.ip(),
            expected: permit.expected().clone(),
        };
        let connect = async || {
            let secured = dial::tunnel(pod, permit, key.to).await?;
            let Session { version, suite, .. } = secured.session;
            let security = Security::MutualTls { version, suite };
            self.sessions.borrow_mut().insert(key.clone(), security);
            Ok(secured.stream)
        };
        let stream = self
            .pool
            .open(&key, request, connect)
            .await
            .map_err(failure)?;
        let sessions = self.sessions.borrow();
        let security = sessions.get(&key).copied().unwrap_or(Security::Plaintext);
        Ok((stream, security))
    }

    /// Takes the tunnels of a pod that left the mesh out of use; their streams go
    /// on, unless the pod is `gone`.
    pub(super) fn forget(&self, epoch: u64, gone: bool) {
        let cut = if gone { Cut::Abrupt } else { Cut::Graceful };
        self.pool.retain(|key| key.epoch != epoch, cut);
        self.sessions
            .borrow_mut()
            .retain(|key, _| key.epoch != epoch);
    }

    pub(super) fn stats(&self) -> PoolStats {
        self.pool.stats()
    }
}

fn failure(error: PoolError<TunnelError>) -> Failure {
    let reason = match &error {
        PoolError::Dial(error) => return Failure::from(&**error),
        PoolError::Tunnel(_) => Reason::UpstreamTls,
        PoolError::DialTimeout(_) => Reason::UpstreamTimeout,
        PoolError::Full(_) | PoolError::Overloaded(_) => Reason::PoolExhausted,
        PoolError::Cut => Reason::PodReleased,
        PoolError::Open(OpenError::Refused { status: 401 | 403 }) => Reason::UpstreamDenied,
        PoolError::Open(OpenError::Refused { status: 502..=504 }) => Reason::AppRefused,
        PoolError::Open(OpenError::Refused { .. }) => Reason::UpstreamRejected,
        PoolError::Open(OpenError::Timeout(_)) => Reason::UpstreamTimeout,
        PoolError::Open(OpenError::Exhausted(_)) => Reason::PoolExhausted,
        PoolError::Open(OpenError::Reset { .. } | OpenError::TunnelLost { .. }) => {
            Reason::TunnelLost
        }
    };
    Failure::failed(reason, error)
}
