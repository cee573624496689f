//! What came to the pod without a tunnel: refused where the workload is STRICT,
//! handed to the application where it is PERMISSIVE.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::end::{Failure, outcome};
use super::inbound::{app_failure, open};
use super::worker::Worker;
use super::{Pod, dial};
use crate::addr::ClientAddr;
use crate::budget::Budgeted;
use crate::observe::{Connection, Security};
use crate::policy::{self, InboundRequest, Peer};
use crate::relay;

/// Serves one connection that `sk_lookup` brought from outside the pod.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    client: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
) {
    let mut record = open(worker, pod, peer, local);
    record.set_security(Security::Plaintext);
    let connected = tokio::select! {
        connected = connect(worker, pod, local, peer, &record) => connected,
        () = record.cut() => Err(Failure::cut(&record)),
    };
    let app = match connected {
        Ok(app) => app,
        Err(failure) => {
            relay::reset(client);
            return failure.record(record);
        }
    };
    let Budgeted {
        inner: app,
        descriptor: _descriptor,
    } = app;
    if let Err(error) = dial::keep_alive(&client) {
        tracing::debug!(%error, "no keepalive for a plaintext client");
    }
    record.established();
    let end = relay::relay_tcp(app, client, record.meter(), pod.budget(), record.cut()).await;
    outcome(end, record);
}

async fn connect(
    worker: &Worker,
    pod: &Arc<Pod>,
    local: SocketAddr,
    peer: SocketAddr,
    record: &Connection,
) -> Result<Budgeted<TcpStream>, Failure> {
    let generation = worker.shared.generation.load();
    let world = &generation.world;
    let decision = policy::inbound(
        world.policies(),
        world.mesh(),
        &InboundRequest {
            destination: &pod.workload(),
            port: local.port(),
            destination_ip: local.ip(),
            peer: Peer::Plaintext,
            peer_ip: peer.ip(),
            client_ip: peer.ip(),
        },
    );
    record.judged(&decision);
    let permit = decision.outcome?;
    dial::application(&worker.shared, pod, &permit, local, ClientAddr(peer))
        .await
        .map_err(app_failure)
}
