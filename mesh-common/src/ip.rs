//! The one form in which the maps hold IP addresses, and what can be told from
//! an address alone. Used by every kernel program and by the agent.

/// An IP address as 16 bytes in network order; IPv4 is IPv4-mapped
/// (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2), so that an IPv4 socket and a
/// v4-mapped one give the same key.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip {
    /// The address, most significant byte first.
    pub bytes: [u8; 16],
}

/// The third word of a v4-mapped address, `00 00 ff ff`, as the machine reads it.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Ip {
    /// `::`, also used where there is no address.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// From the 32-bit form of the kernel's contexts (network order).
    #[inline(always)]
    pub fn from_v4_word(word: u32) -> Self {
        Self::from_words([0, 0, MAPPED, word])
    }

    /// From four 32-bit words of the kernel's contexts (network order).
    #[inline(always)]
    pub fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words.map(u32::to_ne_bytes);
        Self {
            bytes: [
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
                d[2], d[3],
            ],
        }
    }

    /// The inverse of [`Ip::from_words`].
    #[inline(always)]
    pub fn words(&self) -> [u32; 4] {
        let b = &self.bytes;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        a == 0 && b == 0 && c == MAPPED
    }

    /// Whether both are the same address, by words: the kernel programs have
    /// no `memcmp` worth calling.
    #[inline(always)]
    pub fn same(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.bytes[12] == 127;
        }
        self.same(&Self::from_words([0, 0, 0, 1u32.to_be()]))
    }

    /// `0.0.0.0` or `::`. `connect()` takes either for the host itself.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.words();
        a == 0 && b == 0 && (c == 0 || c == MAPPED) && d == 0
    }

    /// IPv6 link-local, `fe80::/10`, which means nothing without its interface.
    #[inline(always)]
    pub fn is_v6_link_local(&self) -> bool {
        self.bytes[0] == 0xfe && self.bytes[1] & 0xc0 == 0x80
    }

    /// `224.0.0.0/4`, the limited broadcast address, or `ff00::/8`.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        if self.is_v4() {
            return self.bytes[12] & 0xf0 == 224 || self.words()[3] == u32::MAX;
        }
        self.bytes[0] == 0xff
    }
}

/// Whether a packet from `remote` to `local` never left its namespace. The
/// interface does not tell in `sk_lookup`: a packet to the pod's own address
/// carries the index of eth0 there, not that of `lo` (seen on 6.18).
#[inline(always)]
pub fn is_local(remote: &Ip, local: &Ip) -> bool {
    remote.same(local) || remote.is_loopback() || local.is_loopback()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn ip(text: &str) -> Ip {
        let bytes = match text.parse().unwrap() {
            IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).octets(),
            IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
        };
        Ip { bytes }
    }

    #[test]
    fn words_round_trip_and_match_the_mapped_form() {
        for text in ["10.1.2.3", "fd00:1:2:3:4:5:6:7", "::"] {
            assert_eq!(Ip::from_words(ip(text).words()), ip(text));
        }
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        assert_eq!(Ip::from_v4_word(word), ip("10.1.2.3"));
        assert!(Ip::from_v4_word(word).is_v4());
        assert!(!ip("fd00::1").is_v4());
        assert!(!ip("::10.1.2.3").is_v4());
    }

    #[test]
    fn classes_of_addresses() {
        for (text, loopback, unspecified, link_local, multicast) in [
            ("127.0.0.1", true, false, false, false),
            ("127.255.0.9", true, false, false, false),
            ("128.0.0.1", false, false, false, false),
            ("::1", true, false, false, false),
            ("::2", false, false, false, false),
            ("0.0.0.0", false, true, false, false),
            ("::", false, true, false, false),
            ("0.0.0.1", false, false, false, false),
            ("fe80::1", false, false, true, false),
            ("febf::1", false, false, true, false),
            ("fec0::1", false, false, false, false),
            ("224.0.0.1", false, false, false, true),
            ("239.255.255.255", false, false, false, true),
            ("255.255.255.255", false, false, false, true),
            ("240.0.0.1", false, false, false, false),
            ("ff02::1", false, false, false, true),
        ] {
            let ip = ip(text);
            assert_eq!(ip.is_loopback(), loopback, "{text} loopback");
            assert_eq!(ip.is_unspecified(), unspecified, "{text} unspecified");
            assert_eq!(ip.is_v6_link_local(), link_local, "{text} link-local");
            assert_eq!(ip.is_multicast(), multicast, "{text} multicast");
        }
    }

    #[test]
    fn local_is_the_same_address_or_loopback() {
        assert!(is_local(&ip("10.0.0.1"), &ip("10.0.0.1")));
        assert!(is_local(&ip("127.0.0.5"), &ip("10.0.0.1")));
        assert!(is_local(&ip("fd00::1"), &ip("fd00::1")));
        assert!(is_local(&ip("::1"), &ip("::1")));
        assert!(!is_local(&ip("10.0.0.2"), &ip("10.0.0.1")));
        assert!(!is_local(&ip("fd00::2"), &ip("fd00::1")));
        assert!(!is_local(&ip("fd00::1"), &ip("fd01::1")));
    }
}
