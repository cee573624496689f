//! Which texts are the address of a pod, a service or an endpoint.

use std::net::IpAddr;

use crate::addr::canonical_ip;

/// Parses an address that one host can have, in canonical form. Refuses what
/// Kubernetes refuses in endpoints (`ValidateEndpointIP`): an endpoint at
/// 127.0.0.1 would be dialled inside the *client's* own pod.
pub(super) fn parse(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address"))?;
    let ip = canonical_ip(ip);
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let kind = if ip.is_unspecified() {
        "the unspecified address"
    } else if ip.is_loopback() {
        "a loopback address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if link_local {
        "a link-local or broadcast address"
    } else {
        return Ok(ip);
    };
    Err(format!("{text} is {kind}, which belongs to no single host"))
}
