//! The `traceparent` header (W3C Trace Context), which ties the two agents'
//! log lines of one connection together. The outbound proxy makes one for each
//! connection; the request carries it.

use std::cell::Cell;
use std::fmt;

/// A trace context: which trace, and which span of it is the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceParent {
    /// A new trace with no flags. Its numbers are unlikely to repeat, and not
    /// secret.
    pub fn generate() -> Self {
        loop {
            let trace_id = u128::from(random()) << 64 | u128::from(random());
            let parent_id = random();
            if trace_id != 0 && parent_id != 0 {
                return Self {
                    trace_id,
                    parent_id,
                    flags: 0,
                };
            }
        }
    }

    /// Reads a header value of version 00, or the same fields of a later
    /// version (W3C Trace Context §4.3); `None` for anything else.
    pub fn parse(value: &str) -> Option<Self> {
        const LEN: usize = 55;
        if !value.is_ascii() || value.len() < LEN {
            return None;
        }
        let (known, extra) = value.split_at(LEN);
        let version = hex(&known[..2])?;
        let length_fits = match version {
            0xff => false,
            0 => extra.is_empty(),
            _ => extra.is_empty() || extra.starts_with('-'),
        };
        let dashes = [2, 35, 52].iter().all(|&at| known.as_bytes()[at] == b'-');
        let (trace_id, parent_id) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let flags = hex(&known[53..])?;
        if !length_fits || !dashes || trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            parent_id: u64::try_from(parent_id).ok()?,
            flags: u8::try_from(flags).ok()?,
        })
    }

    /// The trace's number, which log lines of both agents share.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, parent, flags) = (self.trace_id, self.parent_id, self.flags);
        write!(f, "00-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

/// Lower-case hexadecimal digits only: no sign and no upper case.
fn hex(digits: &str) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if !digits.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded once a thread by the operating
/// system: a system call for each connection would cost more than the number.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn seed() -> u64 {
    let mut seed = [0; 8];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if provider.secure_random.fill(&mut seed).is_err() {
        // No entropy: the address of a thread-local at least differs between
        // threads, and traces are not secrets.
        return std::ptr::from_ref(&seed).addr() as u64;
    }
    u64::from_ne_bytes(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_round_trip() {
        let parsed = TraceParent::parse(EXAMPLE).unwrap();
        assert_eq!(parsed.to_string(), EXAMPLE);
        let ours = TraceParent::generate();
        assert_eq!(TraceParent::parse(&ours.to_string()), Some(ours));
    }

    #[test]
    fn traces_differ() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..10_000).all(|_| seen.insert(TraceParent::generate().trace_id())));
        let elsewhere = std::thread::spawn(TraceParent::generate).join().unwrap();
        assert!(seen.insert(elsewhere.trace_id()));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = EXAMPLE.replacen("00-", "01-", 1);
        assert!(TraceParent::parse(&later).is_some());
        assert!(TraceParent::parse(&format!("{later}-more")).is_some());
    }

    #[test]
    fn what_is_garbled_is_none() {
        for value in [
            "".to_owned(),
            "00".to_owned(),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.to_uppercase(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-"),
            format!("{EXAMPLE}0"),
            EXAMPLE.replacen("00-", "ff-", 1),
            EXAMPLE.replacen("00-", "01-", 1) + "x",
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("4bf9", "+bf9"),
            EXAMPLE.replace("4bf9", "gbf9"),
            "é".repeat(28),
        ] {
            assert_eq!(TraceParent::parse(&value), None, "{value}");
        }
    }
}
