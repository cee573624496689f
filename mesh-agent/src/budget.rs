//! Budgets of file descriptors and of buffered bytes: how much one pod may hold, and how much
//! the node's pods may hold together. `proxy` takes a [`Descriptor`] for each socket of a pod,
//! `relay` and `hbone` account what they buffer for it in a [`Buffered`].
//!
//! One pod may use up to its own limit. The last quarter of the node's capacity is a reserve
//! that only pods below their guaranteed share (an equal part of the reserve) draw from, so
//! that no pod, and no peer of a pod, uses up what the others need. Accounting is two atomic
//! additions per change, without a lock; a guard returns what it holds when it is dropped.

mod io;
mod limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use limits::{BudgetLimits, BudgetOptions, Machine};

/// Part of the node's capacity that only pods below their guaranteed share may use: one in
/// this many.
const RESERVE: u64 = 4;

/// A resource that is budgeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// File descriptors of the agent, one for each socket.
    Descriptors,
    /// Bytes that the agent holds because a reader does not take them.
    BufferedBytes,
}

/// Why a pod gets no more of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// The pod has reached its own limit.
    #[error(
        "the pod's connections hold {used} of the {limit} {} that one pod may hold; the limit \
         is {}", .resource.unit(), .resource.pod_option()
    )]
    Pod {
        /// What there is no more of.
        resource: Resource,
        /// What the pod holds.
        used: u64,
        /// What it may hold.
        limit: u64,
    },
    /// The node's pods have used up what is not reserved for pods that hold less.
    #[error(
        "the node's pods hold {used} of {capacity} {}, and the rest is reserved for pods that \
         hold less than {share} (this one holds {pod}); the capacity is {}",
        .resource.unit(), .resource.node_option()
    )]
    Node {
        /// What there is no more of.
        resource: Resource,
        /// What all pods hold.
        used: u64,
        /// What all pods may hold.
        capacity: u64,
        /// What each pod may hold in any case.
        share: u64,
        /// What this pod holds.
        pod: u64,
    },
}

impl Resource {
    fn unit(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::BufferedBytes => "buffered bytes",
        }
    }

    fn pod_option(self) -> &'static str {
        match self {
            Self::Descriptors => "--pod-descriptors",
            Self::BufferedBytes => "--pod-buffered-bytes",
        }
    }

    fn node_option(self) -> &'static str {
        match self {
            Self::Descriptors => "the agent's limit of open files less what is kept for itself",
            Self::BufferedBytes => "--node-buffered-bytes",
        }
    }
}

/// How much of one resource is used, and how much may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held now.
    pub used: u64,
    /// The most that may be held.
    pub limit: u64,
}

/// One resource of the node.
#[derive(Debug)]
struct Pool {
    resource: Resource,
    capacity: u64,
    pod_limit: u64,
    used: AtomicU64,
}

/// The budget of one node's pods together.
#[derive(Debug)]
pub struct NodeBudget {
    descriptors: Pool,
    bytes: Pool,
    /// Pods that have a budget, by which the reserve is divided.
    pods: AtomicU64,
}

/// The budget of one pod.
#[derive(Debug)]
pub struct PodBudget {
    node: Arc<NodeBudget>,
    descriptors: AtomicU64,
    bytes: AtomicU64,
}

/// One descriptor of a pod's budget; dropping it returns it.
#[derive(Debug)]
pub struct Descriptor(Arc<PodBudget>);

/// Buffered bytes of a pod's budget; dropping it returns them.
#[derive(Debug)]
pub struct Buffered {
    pod: Arc<PodBudget>,
    bytes: u64,
}

/// A value with the descriptor that it uses.
#[derive(Debug)]
pub struct Budgeted<T> {
    /// The socket, or what wraps it.
    pub inner: T,
    /// Its place in the budget.
    pub descriptor: Descriptor,
}

impl Pool {
    fn new(resource: Resource, capacity: u64, pod_limit: u64) -> Self {
        Self {
            resource,
            capacity,
            pod_limit,
            used: AtomicU64::new(0),
        }
    }

    /// What each of `pods` pods may hold whatever the others do.
    fn share(&self, pods: u64) -> u64 {
        self.capacity / RESERVE / pods.max(1)
    }

    /// Whether a pod may hold `pod` in all when the node's pods then hold `node` in all.
    fn check(&self, pod: u64, node: u64, pods: u64) -> Result<(), Exhausted> {
        if pod > self.pod_limit {
            return Err(Exhausted::Pod);
        }
        let unreserved = self.capacity - self.capacity / RESERVE;
        if node <= unreserved || (node <= self.capacity && pod <= self.share(pods)) {
            return Ok(());
        }
        Err(Exhausted::Node)
    }

    /// Whether buffers should shrink: more than half of what the pod may hold is held.
    fn is_pressed(&self, pod: u64, node: u64, pods: u64) -> bool {
        pod > self.pod_limit / 2 || (node > self.capacity / 2 && pod > self.share(pods))
    }

    /// Takes `amount` for the pod that counts in `pod`.
    fn take(&self, pod: &AtomicU64, pods: u64, amount: u64) -> Result<(), OverLimit> {
        let pod_used = pod.fetch_add(amount, Ordering::Relaxed);
        let node_used = self.used.fetch_add(amount, Ordering::Relaxed);
        let checked = self.check(pod_used + amount, node_used + amount, pods);
        checked.map_err(|exhausted| {
            self.give_back(pod, amount);
            match exhausted {
                Exhausted::Pod => OverLimit::Pod {
                    resource: self.resource,
                    used: pod_used,
                    limit: self.pod_limit,
                },
                Exhausted::Node => OverLimit::Node {
                    resource: self.resource,
                    used: node_used,
                    capacity: self.capacity,
                    share: self.share(pods),
                    pod: pod_used,
                },
            }
        })
    }

    fn give_back(&self, pod: &AtomicU64, amount: u64) {
        pod.fetch_sub(amount, Ordering::Relaxed);
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }

    fn usage(&self) -> Usage {
        Usage {
            used: self.used.load(Ordering::Relaxed),
            limit: self.capacity,
        }
    }

    fn pod_usage(&self, pod: &AtomicU64) -> Usage {
        Usage {
            used: pod.load(Ordering::Relaxed),
            limit: self.pod_limit.min(self.capacity),
        }
    }
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exhausted {
    Pod,
    Node,
}

impl NodeBudget {
    /// A budget with nothing held.
    pub fn new(limits: &BudgetLimits) -> Arc<Self> {
        Arc::new(Self {
            descriptors: Pool::new(
                Resource::Descriptors,
                limits.node_descriptors,
                limits.pod_descriptors,
            ),
            bytes: Pool::new(
                Resource::BufferedBytes,
                limits.node_buffered_bytes,
                limits.pod_buffered_bytes,
            ),
            pods: AtomicU64::new(0),
        })
    }

    /// A budget that nothing reaches, for tests and single streams.
    pub fn unlimited() -> Arc<Self> {
        const MOST: u64 = u64::MAX / 4;
        Self::new(&BudgetLimits {
            node_descriptors: MOST,
            pod_descriptors: MOST,
            node_buffered_bytes: MOST,
            pod_buffered_bytes: MOST,
        })
    }

    /// The budget of another pod, with nothing held.
    pub fn pod(self: &Arc<Self>) -> Arc<PodBudget> {
        self.pods.fetch_add(1, Ordering::Relaxed);
        Arc::new(PodBudget {
            node: Arc::clone(self),
            descriptors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Descriptors that all pods hold.
    pub fn descriptors(&self) -> Usage {
        self.descriptors.usage()
    }

    /// Bytes that are buffered for all pods.
    pub fn buffered_bytes(&self) -> Usage {
        self.bytes.usage()
    }

    fn pods(&self) -> u64 {
        self.pods.load(Ordering::Relaxed)
    }
}

impl PodBudget {
    /// Takes one descriptor.
    ///
    /// # Errors
    /// When the pod, or the node's pods together, may hold no more.
    pub fn descriptor(self: &Arc<Self>) -> Result<Descriptor, OverLimit> {
        let node = &self.node;
        node.descriptors.take(&self.descriptors, node.pods(), 1)?;
        Ok(Descriptor(Arc::clone(self)))
    }

    /// Takes one descriptor for a socket that is opened ahead of its use: none while more than
    /// half of what the pod may hold is held.
    pub fn spare_descriptor(self: &Arc<Self>) -> Option<Descriptor> {
        let node = &self.node;
        let (pod, used) = (self.descriptors().used, node.descriptors().used);
        if node.descriptors.is_pressed(pod, used, node.pods()) {
            return None;
        }
        self.descriptor().ok()
    }

    /// An account of buffered bytes, with none.
    pub fn buffered(self: &Arc<Self>) -> Buffered {
        Buffered {
            pod: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Whether buffers of this pod should not grow: more than half of what it may have
    /// buffered is, or more than half of the node's and this pod is above its share.
    pub fn is_pressed(&self) -> bool {
        let (pod, node) = (self.buffered_bytes().used, self.node.buffered_bytes().used);
        self.node.bytes.is_pressed(pod, node, self.node.pods())
    }

    /// Descriptors that the pod holds.
    pub fn descriptors(&self) -> Usage {
        self.node.descriptors.pod_usage(&self.descriptors)
    }

    /// Bytes that are buffered for the pod.
    pub fn buffered_bytes(&self) -> Usage {
        self.node.bytes.pod_usage(&self.bytes)
    }
}

impl Drop for PodBudget {
    fn drop(&mut self) {
        self.node.pods.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.node.descriptors.give_back(&self.0.descriptors, 1);
    }
}

impl Buffered {
    /// Changes the account to `bytes`.
    ///
    /// # Errors
    /// When it grows beyond what the pod, or the node's pods together, may hold. The account
    /// is unchanged then, and the caller drops its data.
    pub fn set(&mut self, bytes: usize) -> Result<(), OverLimit> {
        let bytes = bytes as u64;
        let node = &self.pod.node;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            node.bytes.take(&self.pod.bytes, node.pods(), more)?;
        } else if bytes < self.bytes {
            node.bytes.give_back(&self.pod.bytes, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Adds `bytes` without a limit, for data whose size [`PodBudget::is_pressed`] bounds.
    pub fn add(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.pod.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pod.node.bytes.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Whether buffers of the pod should not grow.
    pub fn is_pressed(&self) -> bool {
        self.pod.is_pressed()
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pod.node.bytes.give_back(&self.pod.bytes, self.bytes);
        }
    }
}

impl<T> Budgeted<T> {
    /// The same descriptor with what was made of its socket.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Budgeted<U> {
        Budgeted {
            inner: change(self.inner),
            descriptor: self.descriptor,
        }
    }
}

#[cfg(test)]
mod tests;
