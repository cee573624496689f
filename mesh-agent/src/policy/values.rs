//! The values that a rule compares with: texts with wildcards, blocks of addresses,
//! ports. Made by `model`, which has checked them.

use std::fmt;
use std::net::IpAddr;

use crate::addr::canonical_ip;
use crate::identity::SpiffeId;

/// One of Istio's four kinds of text match: exact, prefix (`abc*`), suffix (`*abc`)
/// and presence (`*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Present,
}

/// The principals of a field: as they are written, and with the mesh's trust domains in
/// place of the names that stand for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principals {
    written: Box<[Pattern]>,
    /// `None` where it is the same.
    expanded: Option<Box<[Pattern]>>,
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpBlock {
    network: IpAddr,
    bits: u8,
}

/// Why a text is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBlock {
    #[error("{0:?} is neither an IP address nor a CIDR block")]
    Shape(String),
    #[error("{0:?} has more bits than its address")]
    Bits(String),
}

/// A service account of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Principals {
    pub(crate) fn new(written: Box<[Pattern]>, expanded: Box<[Pattern]>) -> Self {
        let expanded = (expanded != written).then_some(expanded);
        Self { written, expanded }
    }

    /// For messages.
    pub(crate) fn written(&self) -> &[Pattern] {
        &self.written
    }

    /// For comparisons.
    pub(crate) fn patterns(&self) -> &[Pattern] {
        self.expanded.as_deref().unwrap_or(&self.written)
    }
}

impl Pattern {
    /// As Istio reads a value: a star counts at the ends only.
    pub(crate) fn new(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }

    /// Whether the text made of `parts` matches. No text is put together for it.
    pub(crate) fn matches(&self, parts: &[&str]) -> bool {
        match self {
            Self::Exact(exact) => {
                let length: usize = parts.iter().map(|part| part.len()).sum();
                length == exact.len() && starts_with(parts, exact)
            }
            Self::Prefix(prefix) => starts_with(parts, prefix),
            Self::Suffix(suffix) => ends_with(parts, suffix),
            Self::Present => parts.iter().any(|part| !part.is_empty()),
        }
    }
}

fn starts_with(parts: &[&str], prefix: &str) -> bool {
    let mut rest = prefix.as_bytes();
    for part in parts.iter().map(|part| part.as_bytes()) {
        if rest.len() <= part.len() {
            return part.starts_with(rest);
        }
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

fn ends_with(parts: &[&str], suffix: &str) -> bool {
    let mut rest = suffix.as_bytes();
    for part in parts.iter().rev().map(|part| part.as_bytes()) {
        if rest.len() <= part.len() {
            return part.ends_with(rest);
        }
        match rest.strip_suffix(part) {
            Some(before) => rest = before,
            None => return false,
        }
    }
    rest.is_empty()
}

/// An identity as policies write it: without `spiffe://`.
pub(super) fn principal(identity: &SpiffeId) -> [&str; 5] {
    let domain = identity.trust_domain().as_str();
    if let Some(path) = identity.path() {
        return [domain, path, "", "", ""];
    }
    [
        domain,
        "/ns/",
        identity.namespace(),
        "/sa/",
        identity.service_account(),
    ]
}

impl IpBlock {
    pub(crate) fn new(text: &str) -> Result<Self, BadBlock> {
        let shape = || BadBlock::Shape(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| shape())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => all,
            Some(bits) if is_plain_number(bits) => bits.parse().map_err(|_| shape())?,
            Some(_) => return Err(shape()),
        };
        if bits > all {
            return Err(BadBlock::Bits(text.to_owned()));
        }
        let network = canonical_ip(address);
        if network.is_ipv4() == address.is_ipv4() {
            return Ok(Self { network, bits });
        }
        // An IPv4-mapped block: of its bits, the first 96 say that it is one.
        match bits.checked_sub(96) {
            Some(bits) => Ok(Self { network, bits }),
            None => Ok(Self {
                network: address,
                bits,
            }),
        }
    }

    /// The block of one address, in canonical form.
    pub(crate) fn single(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let network = address;
        Self { network, bits }
    }

    /// The smallest block of this one's addresses and `ip`, which is of its family.
    pub(crate) fn extended_to(&self, ip: IpAddr) -> Self {
        let same = match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (u32::from(network) ^ u32::from(ip)).leading_zeros()
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (u128::from(network) ^ u128::from(ip)).leading_zeros()
            }
            _ => 0,
        };
        let bits = u8::try_from(same).map_or(self.bits, |same| self.bits.min(same));
        Self { bits, ..*self }.masked()
    }

    /// Its lowest address.
    pub(crate) fn first(&self) -> IpAddr {
        let host_bits = |all: u32| all - u32::from(self.bits);
        match self.network {
            IpAddr::V4(network) => {
                let mask = u32::MAX.checked_shl(host_bits(32)).unwrap_or(0);
                IpAddr::V4((u32::from(network) & mask).into())
            }
            IpAddr::V6(network) => {
                let mask = u128::MAX.checked_shl(host_bits(128)).unwrap_or(0);
                IpAddr::V6((u128::from(network) & mask).into())
            }
        }
    }

    /// The same block, written with its lowest address.
    pub(crate) fn masked(&self) -> Self {
        let network = self.first();
        Self { network, ..*self }
    }

    /// Whether it is written with another address than its lowest.
    pub(crate) fn has_host_bits(&self) -> bool {
        self.first() != self.network
    }

    /// How many bits its addresses share.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether every address of `other` is one of this block.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.network)
    }

    /// Whether its addresses are of IPv4.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// `ip` in canonical form.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differing = u32::from(network) ^ u32::from(ip);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differing = u128::from(network) ^ u128::from(ip);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

/// Digits without leading zeros, as Go's `netip.ParsePrefix` takes them.
fn is_plain_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
