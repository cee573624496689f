//! Fills the API server, each time up to a larger size.

use std::time::Instant;

use anyhow::Result;

use super::api::{Api, Call};
use super::objects::{self, ACCOUNTS, Place, REPLICAS};

/// The namespaces of a cluster, however many of its pods are there yet: whom a pod belongs to
/// must not change as it grows.
pub(crate) const NAMESPACES: u32 = 250;
const NODES: u32 = 500;

/// What is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filled {
    pub(crate) pods: u32,
    pub(crate) services: u32,
}

impl Filled {
    pub(crate) async fn fill(&mut self, api: &Api, pods: u32, services: u32) -> Result<()> {
        let began = Instant::now();
        if self.pods == 0 {
            whole(api).await?;
        }
        let at = |pod| place(pod);
        api.all((self.pods..pods).map(|pod| {
            let path = format!("/api/v1/namespaces/{}/pods", at(pod).namespace());
            Call::post(path, objects::pod(at(pod)))
        }))
        .await?;
        api.all((self.pods..pods).map(|pod| {
            let path = path_of(at(pod));
            Call::patch(format!("{path}/status"), objects::status(at(pod).address()))
        }))
        .await?;
        // As many as there are Deployments behind them.
        let services = services.min(pods.div_ceil(REPLICAS));
        api.all((self.services..services).flat_map(|i| {
            let namespace = objects::namespace_name(i % NAMESPACES);
            let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            [
                Call::post(
                    format!("/api/v1/namespaces/{namespace}/services"),
                    objects::service(i),
                ),
                Call::post(slices, objects::slice(i, NAMESPACES, NODES)),
            ]
        }))
        .await?;
        (self.pods, self.services) = (pods, services);
        println!(
            "{pods} pods and {services} services are there, after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// One of the pods.
    pub(crate) fn some(&self, i: u32) -> Place {
        // A prime, so that all are met before one is met again.
        place(u32::try_from(u64::from(i) * 7919 % u64::from(self.pods)).unwrap_or_default())
    }
}

fn place(pod: u32) -> Place {
    Place {
        pod,
        namespaces: NAMESPACES,
        nodes: NODES,
    }
}

/// Where a pod is in the API.
pub(crate) fn path_of(at: Place) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", at.namespace(), at.name())
}

/// What belongs to no pod: nodes, namespaces, accounts, policies.
async fn whole(api: &Api) -> Result<()> {
    let nodes = (0..NODES).map(|i| objects::node(&format!("node-{i}")));
    api.all(nodes.map(|node| Call::post("/api/v1/nodes", node)))
        .await?;
    let namespaces = (0..NAMESPACES).map(objects::namespace);
    api.all(namespaces.map(|it| Call::post("/api/v1/namespaces", it)))
        .await?;
    api.all((0..NAMESPACES * ACCOUNTS).map(|i| {
        let namespace = objects::namespace_name(i / ACCOUNTS);
        let account = objects::account(&format!("account-{}", i % ACCOUNTS));
        Call::post(
            format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            account,
        )
    }))
    .await?;
    api.all((0..NAMESPACES).map(|i| {
        let policy = objects::policy("callers", &format!("app-{i}"));
        Call::post(policies(&objects::namespace_name(i)), policy)
    }))
    .await
}

/// Where a namespace's policies are in the API.
pub(crate) fn policies(namespace: &str) -> String {
    format!("/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies")
}
