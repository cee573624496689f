//! A worker's tunnels to other nodes, and what opening a stream in one means for
//! the connection that asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::dial::{self, TunnelError};
use super::end::Failure;
use super::{Pod, Shared};
use crate::budget::Budgeted;
use crate::hbone::{
    ConnectRequest, Connected, Cut, OpenError, Pool, PoolError, PoolSettings, PoolStats,
    TunnelStream,
};
use crate::identity::{SpiffeId, Trust};
use crate::observe::Reason;
use crate::policy::TunnelPermit;
use crate::tls::Secured;

/// The tunnels that one worker holds.
pub(super) struct Tunnels {
    pool: Pool<Key, TunnelError>,
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
        }
    }

    /// Opens a stream to `request.destination`; returns once the application
    /// there has accepted.
    pub(super) async fn open(
        &self,
        shared: &Shared,
        pod: &Pod,
        permit: &TunnelPermit,
        request: &ConnectRequest,
    ) -> Result<TunnelStream, Failure> {
        let credential = pod.credential()?;
        // A tunnel goes on when the pod's certificate has expired; it takes nothing new on.
        credential.usable()?;
        let key = Key {
            epoch: pod.epoch(),
            certificate: credential.generation(),
            to: request.destination.ip(),
            expected: permit.expected().clone(),
        };
        let connect = async || {
            let dialled = dial::tunnel(shared, pod, permit, key.to).await?;
            let Secured { stream, session } = dialled.inner;
            Ok(Connected {
                // The descriptor is the pod's as long as the tunnel stands.
                io: Budgeted {
                    inner: stream,
                    descriptor: dialled.descriptor,
                },
                session: Some(Arc::new(session)),
                budget: Some(Arc::clone(pod.budget())),
            })
        };
        let stream = self
            .pool
            .open(&key, request, connect)
            .await
            .map_err(failure)?;
        // Trust may have changed between the handshake and the tunnel's place in the pool.
        if let Some(session) = stream.session() {
            session.confirm(&shared.trust.current(), SystemTime::now())?;
        }
        Ok(stream)
    }

    /// Takes the tunnels of a pod that left the mesh out of use; their streams go
    /// on, unless the pod is `gone`.
    pub(super) fn forget(&self, epoch: u64, gone: bool) {
        let cut = if gone { Cut::Abrupt } else { Cut::Graceful };
        self.pool.retain(|key| key.epoch != epoch, cut);
    }

    /// Cuts the tunnels to peers whom `trust` no longer supports.
    pub(super) fn judge(&self, trust: &Trust) {
        let now = SystemTime::now();
        self.pool
            .retain_sessions(|session| session.confirm(trust, now).is_ok());
    }

    /// Takes all tunnels out of use; completes once the last has carried its
    /// streams to their end and closed.
    pub(super) async fn close(&self) {
        self.pool.retain(|_| false, Cut::Graceful);
        self.pool.emptied().await;
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
        PoolError::Open(OpenError::Reset { .. }) => Reason::UpstreamRejected,
        PoolError::Open(OpenError::TunnelLost { .. }) => Reason::TunnelLost,
    };
    let opened = matches!(error, PoolError::Open(_));
    let failure = Failure::failed(reason, error);
    if opened {
        failure.after_handshake()
    } else {
        failure
    }
}
