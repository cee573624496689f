//! A worker's tunnels to other nodes, and what opening a stream in one means for
//! the connection that asked.

use std::net::IpAddr;

use super::dial::{self, TunnelError};
use super::end::Failure;
use super::Pod;
use crate::hbone::{ConnectRequest, OpenError, Pool, PoolError, PoolSettings, TunnelStream};
use crate::identity::SpiffeId;
use crate::observe::Reason;
use crate::policy::TunnelPermit;

/// The tunnels that one worker holds.
pub(super) struct Tunnels {
    pool: Pool<Key>,
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
        Self { pool: Pool::new(PoolSettings::default()) }
    }

    /// Opens a stream to `request.destination`; returns once the application
    /// there has accepted.
    pub(super) async fn open(
        &self,
        pod: &Pod,
        permit: &TunnelPermit,
        request: &ConnectRequest,
    ) -> Result<TunnelStream, Failure> {
        let key = Key {
            epoch: pod.epoch(),
            certificate: pod.credential()?.generation(),
            to: request.destination.ip(),
            expected: permit.expected().clone(),
        };
        let connect = || async { Ok(dial::tunnel(pod, permit, key.to).await?.stream) };
        self.pool.open(&key, request, connect).await.map_err(failure)
    }

    /// Closes the idle tunnels of a pod that left the mesh.
    pub(super) fn forget(&self, epoch: u64) {
        self.pool.retain(|key| key.epoch != epoch);
    }
}

fn failure(error: PoolError<TunnelError>) -> Failure {
    match error {
        PoolError::Dial(error) => Failure::from(&*error),
        PoolError::Open(OpenError::Refused { status: 401 | 403 }) => {
            Failure::failed(Reason::UpstreamDenied, "the destination's node answered 401")
        }
        PoolError::Open(error) => Failure::failed(Reason::UpstreamRejected, error),
        PoolError::Exhausted => Failure::refused(Reason::PoolExhausted),
    }
}
