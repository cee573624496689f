//! Istio's semantics as tables that can be read beside its documentation (`testdata`),
//! and properties that hold whatever the policies are.

mod properties;
mod tables;
mod validation;
mod values;

use std::net::IpAddr;
use std::path::Path;

use super::{Decision, InboundPermit, InboundRequest, Peer, inbound};
use crate::config::read_objects;
use crate::identity::SpiffeId;
use crate::model::{Built, Workload, World, build};

fn built(yaml: &str, previous: Option<&World>) -> Built {
    let objects = read_objects(Path::new("mesh.yaml"), yaml);
    let objects = objects.unwrap_or_else(|problems| panic!("{problems:#?}\n{yaml}"));
    build([&objects], "node-a", previous)
}

/// A meshed pod with one address.
fn pod(namespace: &str, name: &str, ip: &str, labels: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{isthmus.dev/mesh: enabled{labels}}}}}
spec: {{nodeName: node-b, serviceAccountName: {name}}}
status: {{podIP: {ip}}}
"
    )
}

/// One question, as tables and properties ask it.
#[derive(Clone, Debug)]
struct Question {
    to: String,
    port: u16,
    from: Option<SpiffeId>,
    peer_ip: IpAddr,
    client_ip: IpAddr,
}

impl Question {
    fn request<'a>(&'a self, destination: &'a Workload) -> InboundRequest<'a> {
        InboundRequest {
            destination,
            port: self.port,
            destination_ip: destination.addresses[0],
            peer: self
                .from
                .as_ref()
                .map_or(Peer::Plaintext, Peer::Authenticated),
            peer_ip: self.peer_ip,
            client_ip: self.client_ip,
        }
    }

    fn ask(&self, world: &World) -> Decision<InboundPermit> {
        let destination = world.workload(&self.to);
        let destination = destination.unwrap_or_else(|| panic!("no workload {}", self.to));
        let request = self.request(destination);
        inbound(world.policies(), world.mesh(), &request)
    }
}
