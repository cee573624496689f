//! The addresses of services, and whose each address is. A cluster IP is the service's at
//! every port; an external one only at the ports of the service, since it may be shared,
//! or be a node's.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::problem::Problem;
use super::super::world::Owner;
use super::Service;

/// Whose the addresses of the mesh are.
#[derive(Clone, Debug, Default)]
pub(in crate::model) struct Owners {
    /// Pods' addresses and cluster IPs.
    pub(in crate::model) by_ip: HashMap<IpAddr, Owner>,
    /// External addresses of services, for what is not in `by_ip`.
    pub(in crate::model) external: HashMap<SocketAddr, Owner>,
}

/// Enters the addresses of all services.
pub(super) fn claim(services: &[Arc<Service>], owners: &mut Owners, problems: &mut Vec<Problem>) {
    let mut ordered: Vec<&Arc<Service>> = services.iter().collect();
    ordered.sort_by_key(|service| &service.origin);
    claim_cluster(&ordered, &mut owners.by_ip, problems);
    claim_external(&ordered, owners, problems);
}

/// Enters each cluster IP; one that is already somebody's becomes nobody's.
fn claim_cluster(
    ordered: &[&Arc<Service>],
    owners: &mut HashMap<IpAddr, Owner>,
    problems: &mut Vec<Problem>,
) {
    let mut first_claim: HashMap<IpAddr, String> = HashMap::new();
    for (service, ip) in ordered
        .iter()
        .flat_map(|s| s.cluster_ips.iter().map(move |ip| (*s, *ip)))
    {
        let Some(owner) = owners.get(&ip) else {
            owners.insert(ip, Owner::Service(service.clone()));
            first_claim.insert(ip, described(service));
            continue;
        };
        let other = match owner {
            Owner::Workload(pod) => format!("Pod {} in {}", pod.uid, pod.origin),
            _ => first_claim
                .get(&ip)
                .cloned()
                .unwrap_or_else(|| "pods".to_owned()),
        };
        problems.push(Problem::new(
            &service.origin,
            format!("Service {}/{}", service.namespace, service.name),
            "spec.clusterIPs",
            format!("{ip} is also the address of {other}"),
            "give each its own address; until then connections to it are refused",
        ));
        owners.insert(ip, Owner::Disputed);
    }
}

/// Enters the external addresses, with the ports. Whoever may write a Service may name any
/// address there, so that of a pod or a cluster IP stays whose it is.
fn claim_external(ordered: &[&Arc<Service>], owners: &mut Owners, problems: &mut Vec<Problem>) {
    let mut first_claim: HashMap<SocketAddr, String> = HashMap::new();
    for (service, ip) in ordered
        .iter()
        .flat_map(|s| s.external_ips.iter().map(move |ip| (*s, *ip)))
    {
        let mut problem = |message: String, cure: &str| {
            problems.push(Problem::new(
                &service.origin,
                format!("Service {}/{}", service.namespace, service.name),
                "spec.externalIPs",
                message,
                cure,
            ));
        };
        if let Some(owner) = owners.by_ip.get(&ip) {
            let other = match owner {
                Owner::Workload(pod) => format!("the address of Pod {}", pod.uid),
                Owner::Service(other) => {
                    format!(
                        "the cluster IP of Service {}/{}",
                        other.namespace, other.name
                    )
                }
                Owner::Disputed => "in dispute among others".to_owned(),
            };
            problem(
                format!("the external address {ip} is {other}, and stays so"),
                "remove it here, and from the load balancer's range if it came from there",
            );
            continue;
        }
        for port in service.ports() {
            let addr = SocketAddr::new(ip, port);
            let Some(other) = first_claim.get(&addr) else {
                owners
                    .external
                    .insert(addr, Owner::Service(Arc::clone(service)));
                first_claim.insert(addr, described(service));
                continue;
            };
            problem(
                format!("the external address {addr} is also that of {other}"),
                "give one of them another port or address; until then connections to it are refused",
            );
            owners.external.insert(addr, Owner::Disputed);
        }
    }
}

fn described(service: &Service) -> String {
    format!(
        "Service {}/{} in {}",
        service.namespace, service.name, service.origin
    )
}
