//! Which endpoints of a port take a connection of a pod of this node: kube-proxy's
//! `CategorizeEndpoints`, for one address family at a time.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::world::Owner;
use super::object::{EndpointSlice, Hints, ServicePort, SliceEndpoint};
use super::place::Place;
use super::{Endpoint, port_number};

/// What is behind a port, of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Backends {
    /// For connections to a cluster IP, sorted by address. Only those of this node where
    /// the service says so.
    pub(in crate::model) internal: Arc<[Endpoint]>,
    /// For connections to an external address, sorted by address: a pod's go to every
    /// node, whatever the policies say of internal and of external traffic.
    pub(in crate::model) external: Arc<[Endpoint]>,
}

/// What a service says of the choice among its endpoints.
pub(super) struct Rules<'a> {
    pub(super) place: &'a Place<'a>,
    /// `publishNotReadyAddresses`
    pub(super) include_unready: bool,
    /// `internalTrafficPolicy: Local`
    pub(super) local_only: bool,
}

/// An endpoint with what its slice says of it.
pub(super) struct Described<'a> {
    pub(super) addr: SocketAddr,
    state: State,
    local: bool,
    hints: Option<&'a Hints>,
    owner: Option<&'a Owner>,
}

/// Orders by how well it serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    /// Terminating, and still serving: for want of a better.
    Leaving,
    Unready,
}

/// The endpoints of one port by address, ready or not. EndpointSlices name their ports as
/// the service does, whatever the container calls them, so the name leads to the number.
pub(super) fn of_port<'a>(
    port: &ServicePort,
    slices: &[&'a EndpointSlice],
    rules: &Rules<'_>,
    owners: &'a HashMap<IpAddr, Owner>,
) -> Vec<Described<'a>> {
    let mut found: BTreeMap<SocketAddr, Described<'_>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter();
        let number = ports
            .filter(|it| it.is_tcp && it.name == port.name)
            .find_map(|it| port_number(it.number?));
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            let ip = endpoint.address;
            let owner = owners.get(&ip);
            if matches!(owner, Some(Owner::Disputed | Owner::Service(_))) {
                continue;
            }
            let described = Described {
                addr: SocketAddr::new(ip, number),
                state: rules.state(endpoint),
                local: rules.is_local(endpoint, owner),
                hints: endpoint.hints.as_deref(),
                owner,
            };
            // One endpoint may be in two slices while it moves between them.
            match found.entry(described.addr) {
                Entry::Vacant(place) => {
                    place.insert(described);
                }
                Entry::Occupied(mut other) => {
                    let rank = |it: &Described<'_>| (it.state, Reverse(it.local));
                    if rank(&described) < rank(other.get()) {
                        other.insert(described);
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

impl Rules<'_> {
    /// A condition that is not given counts as the good one (`discovery/v1`).
    fn state(&self, it: &SliceEndpoint) -> State {
        match () {
            () if self.include_unready || it.ready != Some(false) => State::Ready,
            () if it.serving != Some(false) && it.terminating == Some(true) => State::Leaving,
            () => State::Unready,
        }
    }

    /// A slice that a person wrote may leave out the node, which the pod tells too.
    fn is_local(&self, endpoint: &SliceEndpoint, owner: Option<&Owner>) -> bool {
        let node = endpoint.node.as_deref().or(match owner {
            Some(Owner::Workload(workload)) => Some(&*workload.node),
            _ => None,
        });
        node == Some(self.place.node)
    }

    /// Chooses among the endpoints of one family.
    pub(super) fn apply(&self, all: &[Described<'_>]) -> Backends {
        let external = self.cluster(all);
        let internal = match self.local_only {
            true => serving(all, |it| it.local),
            false => Arc::clone(&external),
        };
        Backends { internal, external }
    }

    /// The whole cluster's, but for hints to stay on this node or in its zone. A hint counts
    /// only while every ready endpoint has one, and one of them leads here.
    fn cluster(&self, all: &[Described<'_>]) -> Arc<[Endpoint]> {
        let ready = || all.iter().filter(|it| it.state == State::Ready);
        if ready().all(Described::has_node_hints) && ready().any(|it| it.is_for_node(self.place)) {
            return serving(all, |it| it.is_for_node(self.place));
        }
        if ready().all(Described::has_zone_hints) && ready().any(|it| it.is_for_zone(self.place)) {
            return serving(all, |it| it.is_for_zone(self.place));
        }
        serving(all, |_| true)
    }
}

/// Those that `suit` and are ready, or without any of these, those that still serve.
fn serving(all: &[Described<'_>], suit: impl Fn(&Described<'_>) -> bool) -> Arc<[Endpoint]> {
    let suitable = || all.iter().filter(|it| suit(it));
    let best = suitable().map(|it| it.state).min();
    let Some(best) = best.filter(|state| *state != State::Unready) else {
        return Arc::default();
    };
    let chosen = suitable().filter(|it| it.state == best);
    chosen.map(Described::endpoint).collect()
}

impl Described<'_> {
    fn endpoint(&self) -> Endpoint {
        let workload = match self.owner {
            Some(Owner::Workload(workload)) => Some(Arc::clone(workload)),
            _ => None,
        };
        Endpoint {
            addr: self.addr,
            workload,
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &str> {
        let hints = self.hints.into_iter().flat_map(|hints| &hints.nodes);
        hints.map(|name| &**name)
    }

    fn zones(&self) -> impl Iterator<Item = &str> {
        let hints = self.hints.into_iter().flat_map(|hints| &hints.zones);
        hints.map(|name| &**name)
    }

    fn has_node_hints(&self) -> bool {
        self.nodes().next().is_some()
    }

    fn has_zone_hints(&self) -> bool {
        self.zones().next().is_some()
    }

    fn is_for_node(&self, place: &Place<'_>) -> bool {
        self.nodes().any(|node| node == place.node)
    }

    fn is_for_zone(&self, place: &Place<'_>) -> bool {
        self.zones().any(|zone| Some(zone) == place.zone)
    }
}
