//! The kubelet's probes: connections that go around the agent because a socket
//! of the kubelet's cgroup has opened them. Its program writes the tuple of each
//! down before the SYN leaves; sk_lookup and the guard ask here what it is good
//! for.

use crate::maps::{PROBE_ACCEPTED, Probe};

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

/// Whether an entry is of use after the kubelet's socket is closed: the pod's socket is open
/// and still has to close.
#[inline(always)]
pub fn outlives_kubelet(probe: &Probe) -> bool {
    probe.pod == PROBE_ACCEPTED
}

/// Whether an entry is of use after the pod's socket is closed: the kubelet's is open.
#[inline(always)]
pub fn outlives_pod(probe: &Probe) -> bool {
    probe.closed == 0
}

/// How long an entry is kept whose end no program saw, after it was opened, in nanoseconds:
/// longer than any probe's timeout and the pod's FIN retransmissions.
pub const STALE_NS: u64 = 120_000_000_000;

/// Whether the agent removes an entry that the programs left: the kubelet has closed its
/// socket, and the pod holds its own open for longer than a probe lasts.
pub fn is_stale(probe: &Probe, now_ns: u64) -> bool {
    let ended = probe.closed != 0 || probe.pod > PROBE_ACCEPTED;
    ended && now_ns.saturating_sub(probe.at_ns) > STALE_NS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{PROBE_ENDED, PROBE_OPENING};

    fn probe(at_ns: u64, closed: u32) -> Probe {
        Probe {
            at_ns,
            closed,
            pod: 0,
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

    #[test]
    fn entry_is_kept_until_both_ends_are_closed() {
        let entry = |closed, pod| Probe {
            at_ns: 0,
            closed,
            pod,
        };
        assert!(!outlives_kubelet(&entry(0, PROBE_OPENING)));
        assert!(outlives_kubelet(&entry(0, PROBE_ACCEPTED)));
        assert!(!outlives_kubelet(&entry(0, PROBE_ENDED)));
        assert!(outlives_pod(&entry(0, PROBE_ACCEPTED)));
        assert!(!outlives_pod(&entry(1, PROBE_ACCEPTED)));
    }

    #[test]
    fn is_stale_spares_open_connections_and_young_entries() {
        let entry = |closed, pod| Probe {
            at_ns: 1,
            closed,
            pod,
        };
        let late = STALE_NS + 2;
        assert!(is_stale(&entry(1, PROBE_ACCEPTED), late));
        assert!(is_stale(&entry(0, PROBE_ENDED), late));
        assert!(!is_stale(&entry(1, PROBE_ACCEPTED), late - 1));
        assert!(!is_stale(&entry(0, PROBE_ACCEPTED), late));
        assert!(!is_stale(&entry(1, PROBE_ACCEPTED), 0));
    }
}
