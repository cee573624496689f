//! Where an original destination leads: a pure reading of the world.

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
    /// To one of the endpoints of a service.
    Balanced(Balanced),
}

/// A service, and those of its endpoints that take the connection: at least one.
pub(super) struct Balanced {
    pub(super) service: Arc<Service>,
    pub(super) endpoints: Arc<[Endpoint]>,
}

/// One address to try.
pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    /// Whose the address is; none outside the cluster.
    pub(super) workload: Option<Arc<Workload>>,
    /// Whether it is an endpoint of a Service, and not the address that the application asked for.
    pub(super) is_endpoint: bool,
}

impl Route {
    /// Resolves `destination`.
    pub(super) fn find(world: &World, destination: OriginalDst) -> Result<Self, Failure> {
        let direct = |workload| {
            Self::Direct(Candidate {
                addr: destination.0,
                workload,
                is_endpoint: false,
            })
        };
        match world.resolve(destination) {
            Resolution::Workload(workload) => Ok(direct(Some(workload))),
            Resolution::Outside => Ok(direct(None)),
            Resolution::Service { service, endpoints } => {
                Ok(Self::Balanced(Balanced { service, endpoints }))
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
}

impl From<&Endpoint> for Candidate {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            addr: endpoint.addr,
            workload: endpoint.workload.clone(),
            is_endpoint: true,
        }
    }
}
