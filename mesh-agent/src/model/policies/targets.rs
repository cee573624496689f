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
use super::{Report, Scene};
use crate::policy::{Ports, Scope};

/// Finds what is behind a Service.
pub(super) struct Services<'a> {
    by_key: HashMap<String, &'a ServiceObject>,
    slices: HashMap<String, Vec<&'a EndpointSlice>>,
    by_address: HashMap<IpAddr, &'a Arc<Workload>>,
    workloads: &'a [Arc<Workload>],
}

/// Ports of one workload, while they are collected.
#[derive(Default)]
struct Reached {
    ports: BTreeSet<u16>,
    all: bool,
}

impl<'a> Services<'a> {
    pub(super) fn new(scene: &Scene<'a>) -> Self {
        let policies = scene
            .sources
            .iter()
            .flat_map(|it| &it.authorization_policies);
        let mut policies = policies.map(|it| &it.object.spec);
        let mut services = Self {
            by_key: HashMap::new(),
            slices: HashMap::new(),
            by_address: HashMap::new(),
            workloads: scene.workloads,
        };
        if !policies.any(|spec| spec.target_ref.is_some() || !spec.target_refs.is_empty()) {
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

    /// The workloads that `targets` of a policy in `namespace` mean.
    pub(super) fn scope<'t>(
        &self,
        targets: impl Iterator<Item = &'t TargetRef>,
        of: &str,
        report: &mut Report<'_>,
    ) -> Scope {
        let mut reached: BTreeMap<Arc<str>, Reached> = BTreeMap::new();
        for (i, target) in targets.enumerate() {
            let at = |field: &str| format!("spec.targetRefs[{i}].{field}");
            if target.kind != "Service" || !matches!(target.group.as_str(), "" | "core") {
                report.fault(
                    at("kind"),
                    format!(
                        "a target of kind {:?} in group {:?} is not answered here",
                        target.kind, target.group
                    ),
                    "name a Service, or select workloads by their labels",
                );
                continue;
            }
            if !target.namespace.is_empty() && target.namespace != of {
                let message = "a policy's targets are in its own namespace";
                report.fault(at("namespace"), message, "move the policy, or remove it");
                continue;
            }
            let service = format!("{of}/{}", target.name);
            match self.by_key.get(&service) {
                Some(found) => self.reach(&service, found, &mut reached),
                None => report.fault(
                    at("name"),
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
