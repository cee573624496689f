//! The data plane: what happens to one connection between the agent's accept and
//! its last byte.
//!
//! [`worker`] runs the threads, each of which owns its connections. [`accept`]
//! takes a connection from a pod's listener and tells what it is. Then
//! [`outbound`] carries what the pod's application opened, [`inbound`] serves a
//! tunnel from another node, and [`plaintext`] what came without one. Among the endpoints
//! of a service, [`retry`] finds one that answers. All three
//! connect onward through [`dial`], which asks for a permit of the policy module.

mod accept;
mod affinity;
mod balance;
mod buffers;
mod dial;
mod end;
mod inbound;
mod judge;
mod labels;
mod outbound;
mod plaintext;
mod pod;
mod probe;
mod retry;
mod route;
mod spare;
mod tunnels;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::watch;

use crate::budget::NodeBudget;
use crate::config::KubeHealth;
use crate::handshakes::Handshakes;
use crate::identity::TrustStore;
use crate::intercept::Interceptor;
use crate::model::{Workload, World};
use crate::observe::Observer;

use affinity::Affinity;

pub use judge::{judge, judge_policies};
pub use pod::{Pod, PodParts};
pub use probe::Probes;
pub use worker::{Workers, WorkersError};

/// What the mesh looks like since one configuration change, as the data plane
/// reads it. Exchanged as a whole.
#[derive(Debug)]
pub struct Generation {
    /// Counts up from 1 with each configuration that took effect.
    pub number: u64,
    /// Every workload and service, and the mesh-wide settings.
    pub world: Arc<World>,
    /// Whether the configuration was read in full; see [`crate::policy::outbound`].
    pub complete: bool,
    /// Workloads that came into the mesh lately, by uid, and since when this node
    /// knows: their own node may not have enrolled them yet.
    pub joining: HashMap<Arc<str>, Instant>,
}

/// How long a workload counts as joining: well above the time in which a node that
/// reads the same change enrols it.
const JOINING: Duration = Duration::from_secs(3);

impl Generation {
    /// What every agent starts from: nothing is known, and so nothing is outside the mesh.
    pub fn nothing() -> Self {
        let (world, joining) = (Arc::new(World::default()), HashMap::new());
        Self {
            number: 0,
            world,
            complete: false,
            joining,
        }
    }

    /// The generation that follows this one.
    pub fn next(&self, world: Arc<World>, complete: bool) -> Self {
        let now = Instant::now();
        let mut joining = HashMap::new();
        // Both in the order of uids.
        let mut before = self.world.workloads().peekable();
        // At the start everything is new here, and most of it is not elsewhere.
        for workload in world.workloads().filter(|_| self.number > 0) {
            while before.next_if(|was| was.uid < workload.uid).is_some() {}
            let was = before.peek().filter(|was| was.uid == workload.uid);
            let since = match was.is_some_and(|was| was.meshed) {
                true => self.joining.get(&workload.uid).copied(),
                false => workload.meshed.then_some(now),
            };
            if let Some(since) = since.filter(|since| now - *since < JOINING) {
                joining.insert(Arc::clone(&workload.uid), since);
            }
        }
        Self {
            number: self.number + 1,
            world,
            complete,
            joining,
        }
    }

    /// Whether the workload came into the mesh so lately that its node may still be
    /// enrolling it.
    pub fn is_joining(&self, workload: &Workload) -> bool {
        self.joining
            .get(&workload.uid)
            .is_some_and(|since| since.elapsed() < JOINING)
    }
}

/// What all workers share. Nothing in it is locked on the way of a connection, but for the
/// affinity to services that ask for it.
pub struct Shared {
    /// The kernel side.
    pub interceptor: Arc<Interceptor>,
    /// The configuration in force.
    pub generation: ArcSwap<Generation>,
    /// Whether what it was made of is current, where the Kubernetes API is watched.
    pub api: Option<KubeHealth>,
    /// Whom to trust, which certificates were revoked.
    pub trust: Arc<TrustStore>,
    /// Counters, live connections, access log.
    pub observer: Arc<Observer>,
    /// What the connections of all pods hold, and may hold.
    pub budget: Arc<NodeBudget>,
    /// True once the agent is shutting down: listeners close, tunnels drain.
    pub draining: watch::Sender<bool>,
    /// Connections of the audit's that are to arrive.
    pub probes: Probes,
    /// Which endpoint a client is to stay with.
    affinity: Affinity,
    /// Inbound TLS handshakes of all pods that are under way.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Spreads connections over the workers.
    pub(crate) turn: AtomicUsize,
    /// Number of the trust by which live connections were last judged.
    pub(crate) judged: watch::Sender<u64>,
    /// Grows when the peers are to shake hands anew.
    pub(crate) settings: watch::Sender<u64>,
    /// Tunnels that must end by themselves, so that nothing they still hold is lost.
    open_tunnels: watch::Sender<usize>,
}

/// Inbound TLS handshakes of all pods at once: an eighth of the descriptors that the agent may
/// have, so that strangers cannot use these up by connecting to many pods.
fn max_handshakes() -> usize {
    const SHARE: u64 = 8;
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let share = usize::try_from(descriptors / SHARE).unwrap_or(usize::MAX);
    share.clamp(512, 8192)
}

/// A tunnel that [`Shared::tunnels_ended`] waits for.
pub(crate) struct OpenTunnel(Arc<Shared>);

impl Shared {
    /// The data plane's view of a mesh that starts at `generation`.
    pub fn new(
        interceptor: Arc<Interceptor>,
        trust: Arc<TrustStore>,
        observer: Arc<Observer>,
        budget: Arc<NodeBudget>,
        generation: Generation,
        api: Option<KubeHealth>,
    ) -> Arc<Self> {
        Arc::new(Self {
            interceptor,
            api,
            generation: ArcSwap::from_pointee(generation),
            trust,
            observer,
            budget,
            draining: watch::Sender::new(false),
            probes: Probes::default(),
            affinity: Affinity::new(),
            handshakes: Handshakes::new(max_handshakes()),
            turn: AtomicUsize::new(0),
            open_tunnels: watch::Sender::new(0),
            judged: watch::Sender::new(0),
            settings: watch::Sender::new(0),
        })
    }

    /// Has every tunnel of a peer end after its streams, so that the peer opens another:
    /// TLS settings that changed would not reach it otherwise.
    pub fn ask_for_new_handshakes(&self) {
        self.settings.send_modify(|number| *number += 1);
    }

    /// Counts a tunnel until the guard is dropped.
    pub(crate) fn open_tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.open_tunnels.send_modify(|open| *open += 1);
        OpenTunnel(Arc::clone(self))
    }

    /// Completes once no tunnel is counted. A connection is over for the observer
    /// when its last byte was handed to its tunnel; only the end of the tunnel says
    /// that the byte has left.
    pub async fn tunnels_ended(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .open_tunnels
            .subscribe()
            .wait_for(|open| *open == 0)
            .await;
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.open_tunnels.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_objects;
    use crate::model::build;

    fn world(meshed: bool) -> Arc<World> {
        let label = if meshed { "enabled" } else { "disabled" };
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, labels: \
             {{isthmus.dev/mesh: {label}}}}}, spec: {{nodeName: there}}, status: \
             {{podIPs: [{{ip: 10.0.0.1}}]}}}}"
        );
        let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
        Arc::new(build([&objects], "here", None).world)
    }

    #[test]
    fn only_who_came_into_the_mesh_since_the_start_is_joining() {
        let joining = |generation: &Generation| {
            let web = generation.world.workload("shop/web").unwrap();
            generation.is_joining(web)
        };
        let first = Generation::nothing().next(world(true), true);
        assert!(
            !joining(&first),
            "it was in the mesh when this agent started"
        );
        let out = first.next(world(false), true);
        assert!(!joining(&out));
        let back = out.next(world(true), true);
        assert!(joining(&back));
        let later = back.next(world(true), true);
        assert!(joining(&later), "another change does not end it");
        assert_eq!(later.joining, back.joining);
    }
}
