//! Address newtypes, so that an original destination cannot be passed where a
//! peer address is meant. Used by every module on the way of a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// TCP port of the HBONE tunnel in every meshed pod's network namespace, as in
/// Istio ambient.
pub const HBONE_PORT: u16 = 15008;

/// The address an application asked `connect()` for, before the kernel program
/// redirected the connection to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginalDst(pub SocketAddr);

/// The address of the client that opened a connection, as the application
/// behind the mesh is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub SocketAddr);

impl fmt::Display for OriginalDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Turns an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2) into
/// its IPv4 form and leaves every other address alone; drops scope and flow.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(addr.ip()), addr.port())
}

/// [`canonical`] for a bare IP address.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// The 16-byte form in which the eBPF maps hold addresses: IPv6 in network
/// order, IPv4 as IPv4-mapped IPv6.
pub fn to_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The inverse of [`to_bytes`], in canonical form.
pub fn from_bytes(bytes: [u8; 16]) -> IpAddr {
    canonical_ip(IpAddr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4_and_others_stay() {
        for (given, expected) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let given: SocketAddr = given.parse().unwrap();
            assert_eq!(canonical(given).to_string(), expected);
        }
    }

    #[test]
    fn map_bytes_round_trip() {
        for ip in ["10.1.2.3", "fd00::42", "::1", "0.0.0.0"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(from_bytes(to_bytes(ip)), ip);
        }
    }
}
