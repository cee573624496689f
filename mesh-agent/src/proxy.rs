//! The data plane: what happens to one connection between the agent's accept and
//! its last byte.
//!
//! [`worker`] runs the threads, each of which owns its connections. [`accept`]
//! takes a connection from a pod's listener and tells what it is. Then
//! [`outbound`] carries what the pod's application opened, [`inbound`] serves a
//! tunnel from another node, and [`plaintext`] what came without one. All three
//! connect onward through [`dial`], which asks for a permit of the policy module.

mod accept;
mod dial;
mod end;
mod inbound;
mod labels;
mod outbound;
mod plaintext;
mod pod;
mod route;
mod tunnels;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::intercept::Interceptor;
use crate::model::World;
use crate::observe::Observer;

pub use plaintext::is_inbound_plaintext;
pub use pod::{Pod, PodParts};
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
}

/// What all workers share. Nothing in it is locked on the way of a connection.
pub struct Shared {
    /// The kernel side.
    pub interceptor: Arc<Interceptor>,
    /// The configuration in force.
    pub generation: ArcSwap<Generation>,
    /// Counters, live connections, access log.
    pub observer: Arc<Observer>,
    /// True once the agent is shutting down: listeners close, tunnels drain.
    pub draining: watch::Sender<bool>,
    /// Spreads connections over the workers.
    pub(crate) turn: AtomicUsize,
}

impl Shared {
    /// The data plane's view of a mesh that starts at `generation`.
    pub fn new(
        interceptor: Arc<Interceptor>,
        observer: Arc<Observer>,
        generation: Generation,
    ) -> Arc<Self> {
        Arc::new(Self {
            interceptor,
            generation: ArcSwap::from_pointee(generation),
            observer,
            draining: watch::Sender::new(false),
            turn: AtomicUsize::new(0),
        })
    }
}
