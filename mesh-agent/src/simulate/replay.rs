//! A recorded flow, put to the policies of another configuration.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::merge::Merged;
use crate::identity::SpiffeId;
use crate::model::{Workload, World};
use crate::observe::Reason;
use crate::policy::{self, InboundRequest, Peer, RuleRef};

/// Pairs of addresses that stand for a flow at most. Rules that look at the addresses
/// of identities are few, and pods of one identity many.
const MAX_PAIRS: usize = 256;

/// The candidate, indexed by who connects.
pub(super) struct Replay<'a> {
    world: &'a World,
    by_identity: HashMap<&'a SpiffeId, Vec<&'a Arc<Workload>>>,
}

/// What the candidate says of a flow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Allowed,
    /// At least from one of the addresses that the source has.
    Denied {
        reason: Reason,
        detail: String,
    },
}

/// Someone who may be behind a flow.
struct Client<'a> {
    peer: Peer<'a>,
    ip: IpAddr,
}

impl<'a> Replay<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let mut by_identity: HashMap<_, Vec<_>> = HashMap::new();
        for workload in world.workloads() {
            let alike = by_identity.entry(&workload.identity).or_default();
            alike.push(workload);
        }
        Self { world, by_identity }
    }

    /// Judges a flow from every address that its source has, and adds the rules that
    /// matched to `matched`.
    ///
    /// # Errors
    /// Why it cannot be judged.
    pub(super) fn judge(
        &self,
        flow: &Merged,
        matched: &mut HashSet<RuleRef>,
    ) -> Result<Said, String> {
        let destination = self.world.workload(&flow.destination);
        let destination = destination.ok_or("the candidate does not describe the destination")?;
        if !destination.meshed {
            return Ok(Said::Allowed);
        }
        let identity: Option<SpiffeId> = match &flow.source_identity {
            Some(text) => {
                let id = self.world.mesh().id_forms.parse(text);
                Some(id.map_err(|error| error.to_string())?)
            }
            None => None,
        };
        let clients = match (&identity, flow.source_ip) {
            (Some(identity), _) => self.of_identity(identity),
            (None, Some(ip)) => vec![self.at(ip)],
            (None, None) => return Err("it names neither an identity nor an address".to_owned()),
        };
        let addresses = &destination.addresses;
        let pairs = clients.iter().flat_map(|client| {
            let alike = addresses
                .iter()
                .filter(|ip| ip.is_ipv4() == client.ip.is_ipv4());
            alike.map(move |ip| (client, *ip))
        });
        let (mut denied, mut any) = (None, false);
        for (client, destination_ip) in pairs.take(MAX_PAIRS) {
            let request = InboundRequest {
                destination,
                port: flow.port,
                destination_ip,
                peer: client.peer,
                peer_ip: client.ip,
                client_ip: client.ip,
            };
            any = true;
            let (policies, mesh) = (self.world.policies(), self.world.mesh());
            matched.extend(policy::matching(policies, &request));
            if let Err(denial) = policy::inbound(policies, mesh, &request).outcome {
                denied.get_or_insert(denial);
            }
        }
        match denied {
            _ if !any => Err("its two ends have no addresses of one family".to_owned()),
            None => Ok(Said::Allowed),
            Some(denial) => Ok(Said::Denied {
                reason: denial.reason(),
                detail: denial.to_string(),
            }),
        }
    }

    /// The pods of an identity; one whose addresses nobody knows where there is none.
    fn of_identity<'b>(&'b self, identity: &'b SpiffeId) -> Vec<Client<'b>> {
        let pods = self.by_identity.get(identity).into_iter().flatten();
        let clients: Vec<_> = pods.flat_map(|pod| clients(pod)).collect();
        if !clients.is_empty() {
            return clients;
        }
        let anywhere = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        let peer = Peer::Authenticated(identity);
        anywhere.map(|ip| Client { peer, ip }).into()
    }

    /// Who is at an address: a pod that the candidate brings into the mesh proves itself.
    fn at(&self, ip: IpAddr) -> Client<'_> {
        let pod = self.world.workload_by_ip(ip);
        Client {
            peer: pod.map_or(Peer::Plaintext, |pod| peer(pod)),
            ip,
        }
    }
}

fn clients(pod: &Workload) -> impl Iterator<Item = Client<'_>> {
    let of = |ip: &IpAddr| Client {
        peer: peer(pod),
        ip: *ip,
    };
    pod.addresses.iter().map(of)
}

fn peer(pod: &Workload) -> Peer<'_> {
    match pod.meshed {
        true => Peer::Authenticated(&pod.identity),
        false => Peer::Plaintext,
    }
}
