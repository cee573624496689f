//! The address ranges of the cluster: addresses that pods and Services get. One of them that no
//! object has may be that of a pod that is not known yet, and so is not outside the mesh.
//! Made by [`build`](super::build()), asked by the proxy and by `explain`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1 as networking;

use super::object::{Objects, name};
use crate::addr::canonical_ip;
use crate::policy::IpBlock;

/// The ranges, in a form in which an address is found fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterRanges {
    /// Of the MeshConfig, in its order.
    declared: Vec<ClusterRange>,
    /// Of the cluster's objects: disjoint, sorted by family and first address.
    derived: Vec<ClusterRange>,
}

/// One range, and the object that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRange {
    block: IpBlock,
    origin: RangeOrigin,
}

/// The object that a range is of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RangeOrigin {
    /// `spec.clusterRanges` of the MeshConfig.
    Declared,
    /// `spec.podCIDRs` of this Node.
    Node(Arc<str>),
    /// This ServiceCIDR.
    ServiceCidr(Arc<str>),
    /// What the cluster IPs of all Services have in common, where there are no ServiceCIDRs.
    ClusterIps,
}

/// How long what is known of the cluster may have been out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Seconds since a watch was disconnected.
    pub seconds: u64,
    /// Which one, and why.
    pub cause: Arc<str>,
}

/// A `networking.k8s.io/ServiceCIDR`, the part that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `spec.cidrs`
    pub cidrs: Vec<String>,
}

impl From<networking::ServiceCIDR> for ServiceCidr {
    fn from(it: networking::ServiceCIDR) -> Self {
        let spec = it.spec.unwrap_or_default();
        Self {
            name: it.metadata.name.unwrap_or_default().into(),
            cidrs: spec.cidrs.unwrap_or_default(),
        }
    }
}

impl ClusterRange {
    /// Whether the MeshConfig declares it, so that nothing in it is ever outside the mesh.
    pub fn is_declared(&self) -> bool {
        self.origin == RangeOrigin::Declared
    }
}

impl ClusterRanges {
    /// Those that `declared` and `sources` name. `cluster_ips` are those of all Services.
    pub(super) fn new(
        declared: &[IpBlock],
        sources: &[&Objects],
        cluster_ips: impl Iterator<Item = IpAddr>,
    ) -> Self {
        let declared = declared.iter().map(|block| ClusterRange {
            block: *block,
            origin: RangeOrigin::Declared,
        });
        let mut derived = Vec::new();
        // The API server has checked these, so a text that is no block of addresses is none of its.
        let mut add = |text: &str, origin: RangeOrigin| {
            let block = IpBlock::new(text).ok();
            derived.extend(block.map(|block| ClusterRange { block, origin }));
        };
        for node in sources.iter().flat_map(|objects| &objects.nodes) {
            let node = &node.object;
            let Some(spec) = &node.spec else { continue };
            let of_node = || RangeOrigin::Node(name(&node.metadata).into());
            let several = spec.pod_cidrs.iter().flatten();
            several
                .chain(&spec.pod_cidr)
                .for_each(|text| add(text, of_node()));
        }
        let mut has_service_cidrs = false;
        for it in sources.iter().flat_map(|objects| &objects.service_cidrs) {
            has_service_cidrs = true;
            let ServiceCidr { name, cidrs } = &it.object;
            let of_object = || RangeOrigin::ServiceCidr(Arc::clone(name));
            cidrs.iter().for_each(|text| add(text, of_object()));
        }
        if !has_service_cidrs {
            // Without these objects there is one range of each family, and what its addresses have
            // in common lies in it.
            derived.extend(common(cluster_ips).map(|block| ClusterRange {
                block,
                origin: RangeOrigin::ClusterIps,
            }));
        }
        Self {
            declared: declared.collect(),
            derived: disjoint(derived),
        }
    }

    /// The range that an address is in. A declared one goes before the others.
    pub(super) fn find(&self, ip: IpAddr) -> Option<&ClusterRange> {
        let ip = canonical_ip(ip);
        let declared = self.declared.iter().find(|it| it.block.contains(ip));
        declared.or_else(|| {
            let key = (ip.is_ipv6(), ip);
            let after = self.derived.partition_point(|it| it.first() <= key);
            let before = self.derived[..after].last();
            before.filter(|it| it.block.contains(ip))
        })
    }
}

impl ClusterRange {
    /// Its family and first address, by which ranges are sorted.
    fn first(&self) -> (bool, IpAddr) {
        let first = self.block.first();
        (first.is_ipv6(), first)
    }
}

/// Without those that lie in another. Two blocks either do not meet or one lies in the other.
fn disjoint(mut ranges: Vec<ClusterRange>) -> Vec<ClusterRange> {
    ranges.sort_by_key(|it| (it.first(), it.block.bits()));
    let mut kept: Vec<ClusterRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let is_covered = kept.last().is_some_and(|it| it.block.covers(&range.block));
        if !is_covered {
            kept.push(range);
        }
    }
    kept.shrink_to_fit();
    kept
}

/// The smallest block of each family that all its addresses are in.
fn common(addresses: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = IpBlock> {
    let (mut v4, mut v6): (Option<IpBlock>, Option<IpBlock>) = (None, None);
    for ip in addresses.map(canonical_ip) {
        let of_family = if ip.is_ipv4() { &mut v4 } else { &mut v6 };
        *of_family = Some(match of_family {
            Some(block) => block.extended_to(ip),
            None => IpBlock::single(ip),
        });
    }
    v4.into_iter().chain(v6)
}

impl fmt::Display for ClusterRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = self.block;
        match &self.origin {
            RangeOrigin::Declared => write!(f, "{block} (spec.clusterRanges of the MeshConfig)"),
            RangeOrigin::Node(name) => write!(f, "{block} (the pods of Node {name})"),
            RangeOrigin::ServiceCidr(name) => write!(f, "{block} (ServiceCIDR {name})"),
            RangeOrigin::ClusterIps => write!(f, "{block} (the Services' addresses)"),
        }
    }
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, cause } = self;
        write!(
            f,
            "the Kubernetes API has been disconnected for {seconds} s ({cause})"
        )
    }
}
