//! Where an original destination leads: a pure reading of the world, turned into
//! the addresses to try in order.

use std::net::SocketAddr;
use std::sync::Arc;

use super::end::Failure;
use crate::addr::OriginalDst;
use crate::model::{Endpoint, Resolution, Service, Workload, World};
use crate::observe::Reason;

/// The way of one outbound connection.
pub(super) enum Route {
    /// To the address asked for.
    Direct(Candidate),
    /// To one of a service's ready endpoints, of which `start` is tried first.
    Balanced {
        service: Arc<Service>,
        endpoints: Arc<[Endpoint]>,
        start: usize,
    },
}

/// One address to try.
pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    /// Whose the address is; none outside the cluster.
    pub(super) workload: Option<Arc<Workload>>,
}

impl Route {
    /// Resolves `destination`; `random` chooses among the endpoints of a service.
    pub(super) fn find(
        world: &World,
        destination: OriginalDst,
        random: u64,
    ) -> Result<Self, Failure> {
        let direct = |workload| {
            Self::Direct(Candidate {
                addr: destination.0,
                workload,
            })
        };
        match world.resolve(destination) {
            Resolution::Workload(workload) => Ok(direct(Some(workload))),
            Resolution::Outside => Ok(direct(None)),
            Resolution::Service { service, endpoints } => {
                let start = (random % endpoints.len() as u64) as usize;
                Ok(Self::Balanced {
                    service,
                    endpoints,
                    start,
                })
            }
            Resolution::NoSuchPort(_) => Err(Failure::refused(Reason::ServiceNoPort)),
            Resolution::NoReadyEndpoint(_) => Err(Failure::refused(Reason::ServiceNoEndpoint)),
            Resolution::NoLocalEndpoint(_) => Err(Failure::refused(Reason::ServiceNoLocalEndpoint)),
            Resolution::Disputed => {
                let detail = "the configuration gives the address to more than one object";
                Err(Failure::denied(Reason::DestinationUnknown, detail))
            }
        }
    }

    /// The service that was asked for, if one was.
    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Direct(_) => None,
            Self::Balanced { service, .. } => Some(service),
        }
    }

    /// The addresses to try, each once, the chosen one first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let (direct, endpoints, start) = match self {
            Self::Direct(candidate) => {
                let Candidate { addr, workload } = candidate;
                (
                    Some(Candidate {
                        addr: *addr,
                        workload: workload.clone(),
                    }),
                    &[][..],
                    0,
                )
            }
            Self::Balanced {
                endpoints, start, ..
            } => (None, &endpoints[..], *start),
        };
        let (before, from) = endpoints.split_at(start);
        let balanced = from.iter().chain(before).map(|endpoint| Candidate {
            addr: endpoint.addr,
            workload: endpoint.workload.clone(),
        });
        direct.into_iter().chain(balanced)
    }
}
