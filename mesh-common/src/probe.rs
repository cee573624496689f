//! The kubelet's probes: connections that go around the agent because a socket
//! of the kubelet's cgroup has opened them. Its program writes the tuple of each
//! down before the SYN leaves; sk_lookup and the guard ask here what it is good
//! for.

use crate::maps::Probe;

/// How long after its connect() a tuple may still open the connection, in
/// nanoseconds: the first SYN and three repetitions (after 1, 3 and 7 s,
/// RFC 6298 §2). It bounds what an entry is worth whose end nobody has told.
pub const OPENING_NS: u64 = 10_000_000_000;

/// Whether the connection may be opened now. Once the kubelet has closed its
/// socket it may not, whoever has the port then.
#[inline(always)]
pub fn may_open(probe: &Probe, now_ns: u64) -> bool {
    probe.closed == 0 && now_ns.wrapping_sub(probe.at_ns) < OPENING_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(at_ns: u64, closed: u32) -> Probe {
        Probe {
            at_ns,
            closed,
            reserved: 0,
        }
    }

    #[test]
    fn a_tuple_opens_a_connection_for_a_while_and_not_after_its_socket_closed() {
        let now = 50 * OPENING_NS;
        assert!(may_open(&probe(now, 0), now));
        assert!(may_open(&probe(now - OPENING_NS + 1, 0), now));
        assert!(!may_open(&probe(now - OPENING_NS, 0), now));
        assert!(!may_open(&probe(now, 1), now));
    }

    #[test]
    fn a_time_that_lies_ahead_opens_nothing() {
        assert!(!may_open(&probe(10, 0), 5));
    }
}
