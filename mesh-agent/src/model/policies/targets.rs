//! Policies that name Services instead of labels. They hold for the workloads behind
//! the Service, at the ports at which it reaches them, whichever address the client
//! asked for: the destination is not told of the Service, and a policy that only the
//! source could apply would be no protection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::schema::TargetRef;
use super::super::services::{EndpointSlice, ServiceObject, ServicePort};
use super::super::workload::Workload;
use super::target_kind::{self, TargetKind};
use super::{Report, Scene};
use crate::policy::{Ports, Scope};

/// Finds what is behind a Service.
pub(super) struct Services<'a> {
    by_key: HashMap<String, &'a ServiceObject>,
    slices: HashMap<String, Vec<&'a EndpointSlice>>,
    by_address: HashMap<IpAddr, &'a Arc<Workload>>,
    workloads: &'a [Arc<Workload>],
    root_namespace: &'a str,
}

/// Ports of one workload, while they are collected.
#[derive(Default)]
struct Reached {
    ports: BTreeSet<u16>,
    all: bool,
}

impl<'a> Services<'a> {
    pub(super) fn new(scene: &Scene<'a>) -> Self {
        let mut policies = scene
            .sources
            .iter()
            .flat_map(|it| &it.authorization_policies);
        let mut services = Self {
            by_key: HashMap::new(),
            slices: HashMap::new(),
            by_address: HashMap::new(),
            workloads: scene.workloads,
            root_namespace: &scene.mesh.root_namespace,
        };
        if !policies.any(|it| it.object.spec.targets().next().is_some()) {
            return services;
        }
        for service in scene.sources.iter().flat_map(|it| &it.services) {
            let service = &service.object;
            services.by_key.insert(service.meta.key(), service);
        }
        for slice in scene.sources.iter().flat_map(|it| &it.endpoint_slices) {
            let slice = &slice.object;
            if let Some(service) = &slice.service {
                let key = format!("{}/{service}", slice.meta.namespace);
                services.slices.entry(key).or_default().push(slice);
            }
        }
        for workload in scene.workloads {
            let claims = workload.addresses.iter();
            services.by_address.extend(claims.map(|ip| (*ip, workload)));
        }
        services
    }

    /// The workloads that `targets` of a policy in namespace `of` mean, each with its field.
    /// Targets that [`target_kind::check_target`] refuses are skipped.
    pub(super) fn scope<'t>(
        &self,
        targets: impl Iterator<Item = (String, &'t TargetRef)>,
        of: &str,
        report: &mut Report<'_>,
    ) -> Scope {
        let mut reached: BTreeMap<Arc<str>, Reached> = BTreeMap::new();
        for (at, target) in targets {
            let Some(kind) = target_kind::kind(target) else {
                continue;
            };
            if target.kind == "GatewayClass" && of != self.root_namespace {
                report.mistake(
                    at,
                    format!(
                        "a policy for a GatewayClass holds in the root namespace, {}, alone",
                        self.root_namespace
                    ),
                    "move the policy there, or target a Gateway",
                );
                continue;
            }
            if kind == TargetKind::Gateway {
                report.warning(
                    at,
                    format!(
                        "{} {:?} is served by a gateway: for it, the policy is not applied by this agent",
                        target.kind, target.name
                    ),
                    "nothing needs to be done if a gateway is meant; to protect workloads, target their Service or select them by labels",
                );
                continue;
            }
            let service = format!("{of}/{}", target.name);
            match self.by_key.get(&service) {
                Some(found) => self.reach(&service, found, &mut reached),
                None => report.fault(
                    format!("{at}.name"),
                    format!("there is no Service {service} (yet)"),
                    "describe the Service, or correct the name",
                ),
            }
        }
        let some = |it: &Reached| !it.all && !it.ports.is_empty();
        let ports = |it: Reached| some(&it).then(|| it.ports.into_iter().collect());
        let reached = reached.into_iter();
        Scope::Workloads(
            reached
                .map(|(uid, it)| (uid, ports(it)))
                .collect::<BTreeMap<_, Ports>>(),
        )
    }

    fn reach(&self, key: &str, service: &ServiceObject, reached: &mut BTreeMap<Arc<str>, Reached>) {
        let slices = self.slices.get(key).map(Vec::as_slice).unwrap_or_default();
        // Ready or not: who is dialled at its own address is judged too.
        for slice in slices {
            for endpoint in &slice.endpoints {
                let Some(workload) = self.by_address.get(&endpoint.address) else {
                    continue;
                };
                let reached = reached.entry(Arc::clone(&workload.uid)).or_default();
                reached.add_slice(slice);
            }
        }
        let labels = &service.selector;
        if labels.0.is_empty() {
            return;
        }
        let of = &service.meta.namespace;
        let own = self.workloads.iter().filter(|it| it.namespace == *of);
        for workload in own.filter(|workload| labels.match_all(workload)) {
            let in_slice = reached.contains_key(&workload.uid);
            let reached = reached.entry(Arc::clone(&workload.uid)).or_default();
            for port in &service.ports {
                reached.add_port(port, in_slice);
            }
        }
    }
}

impl Reached {
    fn add_slice(&mut self, slice: &EndpointSlice) {
        for port in &slice.ports {
            self.add(port.number);
        }
    }

    /// A port by name is a number only where an EndpointSlice with the pod says which.
    fn add_port(&mut self, port: &ServicePort, in_slice: bool) {
        match port.target {
            None => self.all |= !in_slice,
            number => self.add(number),
        }
    }

    fn add(&mut self, port: Option<i32>) {
        match port.map(u16::try_from) {
            Some(Ok(port)) => {
                self.ports.insert(port);
            }
            _ => self.all = true,
        }
    }
}
