//! A generation of the world and the one question the proxy asks it: where does
//! a connection to this address go? Made by [`build`](super::build()); never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use super::network_policies::NetworkPolicies;
use super::object::Origin;
use super::pods::{Basis, MadeOf, order};
use super::problem::Problem;
use super::ranges::{ClusterRange, ClusterRanges};
use super::services::{Endpoint, Owners, Service};
use super::settings::{MeshSettings, foreign};
use super::workload::Workload;
use crate::addr::{OriginalDst, canonical, canonical_ip};
use crate::identity::SpiffeId;
use crate::policy::Policies;

/// Workloads, services and settings at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(super) mesh: MeshSettings,
    /// Where the settings were read; `None` when all are defaults.
    pub(super) mesh_origin: Option<Origin>,
    /// In the order of their uids.
    pub(super) workloads: Vec<Arc<Workload>>,
    /// Of what each of them was made, and all of them; for the next generation.
    pub(super) made_of: Vec<MadeOf>,
    pub(super) basis: Option<Basis>,
    pub(super) services: Vec<Arc<Service>>,
    pub(super) owners: Owners,
    pub(super) policies: Arc<Policies>,
    pub(super) ranges: ClusterRanges,
    pub(super) network_policies: NetworkPolicies,
}

/// Whose an address is.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    /// More than one object claims it, or one that cannot be used.
    Disputed,
}

/// Where a connection goes. Cheap to make: reference counts, no allocation.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// To this workload, at the address and port asked for.
    Workload(Arc<Workload>),
    /// To one of these endpoints of this service.
    Service {
        /// The service whose address was asked for.
        service: Arc<Service>,
        /// Those that take the connection: of the family asked for, never empty, sorted by address.
        endpoints: Arc<[Endpoint]>,
    },
    /// The service has no such TCP port.
    NoSuchPort(Arc<Service>),
    /// The port exists, and nothing ready of the address's family is behind it.
    NoReadyEndpoint(Arc<Service>),
    /// What is ready there is on other nodes, and `internalTrafficPolicy: Local` keeps
    /// connections on their node.
    NoLocalEndpoint(Arc<Service>),
    /// The configuration does not say whose the address is: two objects claim it, or
    /// a pod that has no usable identity. To be refused: plain TCP to it could reach
    /// a workload that is to be reached over mutual TLS only.
    Disputed,
    /// To an address that is nobody's in the mesh.
    Outside,
}

impl World {
    /// The settings of the whole mesh.
    pub fn mesh(&self) -> &MeshSettings {
        &self.mesh
    }

    /// Who may talk to whom. Until a world was made of objects, nobody to anybody.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// All workloads, in the order of their uids.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// The workload with this uid, `<namespace>/<name>`.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        let place = self.workloads.binary_search_by(|it| (*it.uid).cmp(uid));
        place.ok().map(|i| &self.workloads[i])
    }

    /// The workload of this name.
    pub fn workload_named(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<Workload>> {
        let of = |it: &Arc<Workload>| order((&it.namespace, &it.name), (namespace, name));
        let place = self.workloads.binary_search_by(of);
        place.ok().map(|i| &self.workloads[i])
    }

    /// The DNS names with which workloads in the mesh may prove themselves instead
    /// of with their SPIFFE ID, by identity, sorted. An identity without such names
    /// is left out; the pods of one identity share theirs.
    pub fn name_proofs(&self) -> Vec<(SpiffeId, Vec<String>)> {
        let mut proofs: BTreeMap<&SpiffeId, BTreeSet<&str>> = BTreeMap::new();
        for workload in self.workloads().filter(|workload| workload.meshed) {
            if !workload.tls_names.is_empty() {
                let names = workload.tls_names.iter().map(|name| &**name);
                proofs.entry(&workload.identity).or_default().extend(names);
            }
        }
        let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
        let proofs = proofs.into_iter();
        proofs
            .map(|(id, names)| (id.clone(), owned(names)))
            .collect()
    }

    /// What only time has made wrong: roots of other meshes that have expired `now`.
    pub fn expired(&self, now: SystemTime) -> Vec<Problem> {
        match &self.mesh_origin {
            Some(origin) => foreign::expired(&self.mesh, origin, now),
            None => Vec::new(),
        }
    }

    /// All services, in the order of their namespaces and names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The one workload that has this address (in any form); `None` also for an
    /// address in dispute.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        match self.owners.by_ip.get(&canonical_ip(ip)) {
            Some(Owner::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    /// The range of the cluster that an address is in. One that no object has is not outside the
    /// mesh for certain.
    pub fn cluster_range(&self, ip: IpAddr) -> Option<&ClusterRange> {
        self.ranges.find(ip)
    }

    /// Which NetworkPolicies shut the tunnels' port.
    pub fn network_policies(&self) -> &NetworkPolicies {
        &self.network_policies
    }

    /// Where a connection to `destination` goes.
    pub fn resolve(&self, destination: OriginalDst) -> Resolution {
        let asked = canonical(destination.0);
        match self.owners.by_ip.get(&asked.ip()) {
            Some(Owner::Disputed) => Resolution::Disputed,
            Some(Owner::Workload(workload)) => Resolution::Workload(workload.clone()),
            Some(Owner::Service(service)) => match service.backends(asked) {
                None => Resolution::NoSuchPort(service.clone()),
                Some(behind) if !behind.internal.is_empty() => balanced(service, &behind.internal),
                Some(behind) if !behind.external.is_empty() => {
                    Resolution::NoLocalEndpoint(service.clone())
                }
                Some(_) => Resolution::NoReadyEndpoint(service.clone()),
            },
            None => self.resolve_external(asked),
        }
    }

    fn resolve_external(&self, asked: SocketAddr) -> Resolution {
        let service = match self.owners.external.get(&asked) {
            Some(Owner::Service(service)) => service,
            Some(_) => return Resolution::Disputed,
            None => return Resolution::Outside,
        };
        let behind = service.backends(asked).map(|behind| &behind.external);
        match behind.filter(|endpoints| !endpoints.is_empty()) {
            Some(endpoints) => balanced(service, endpoints),
            None => Resolution::NoReadyEndpoint(service.clone()),
        }
    }
}

fn balanced(service: &Arc<Service>, endpoints: &Arc<[Endpoint]>) -> Resolution {
    Resolution::Service {
        service: service.clone(),
        endpoints: endpoints.clone(),
    }
}
