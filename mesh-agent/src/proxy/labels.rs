//! The names with which connections are logged and counted, made once per
//! workload and service instead of once per connection. One cache a worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Service, Workload};
use crate::observe::PodLabels;

/// Entries kept; a mesh with more destinations from one node rebuilds some.
const CAPACITY: usize = 4096;

/// A worker's cache of labels.
#[derive(Default)]
pub(super) struct Labels {
    workloads: RefCell<Cache<Workload, PodLabels>>,
    services: RefCell<Cache<Service, str>>,
}

/// By the address of the object, which the entry keeps alive.
type Cache<K, V> = HashMap<*const K, (Arc<K>, Arc<V>)>;

impl Labels {
    pub(super) fn workload(&self, workload: &Arc<Workload>) -> Arc<PodLabels> {
        cached(&self.workloads, workload, |workload| {
            Arc::new(pod_labels(workload))
        })
    }

    /// `namespace/name`
    pub(super) fn service(&self, service: &Arc<Service>) -> Arc<str> {
        cached(&self.services, service, |service| {
            format!("{}/{}", service.namespace, service.name).into()
        })
    }
}

fn cached<K, V: ?Sized>(
    cache: &RefCell<Cache<K, V>>,
    key: &Arc<K>,
    make: impl FnOnce(&K) -> Arc<V>,
) -> Arc<V> {
    let mut cache = cache.borrow_mut();
    if let Some((_, labels)) = cache.get(&Arc::as_ptr(key)) {
        return Arc::clone(labels);
    }
    if cache.len() >= CAPACITY {
        cache.clear();
    }
    let labels = make(key);
    cache.insert(Arc::as_ptr(key), (Arc::clone(key), Arc::clone(&labels)));
    labels
}

/// How a workload is named in logs and metrics.
pub(super) fn pod_labels(workload: &Workload) -> PodLabels {
    PodLabels {
        name: Arc::clone(&workload.name),
        namespace: Arc::clone(&workload.namespace),
        workload: workload
            .app
            .clone()
            .unwrap_or_else(|| Arc::clone(&workload.name)),
        identity: workload.identity.to_string().into(),
        app: workload.app.clone(),
        version: workload.version.clone(),
    }
}
