//! Handing a fact about a connection over from the socket that opens it to the socket that
//! accepts it, both in one namespace: the original destination to the agent, the client to
//! the application. The opening socket publishes it when it has received the SYN-ACK, and
//! the accepting socket takes it when it receives the last ACK of the handshake, which is
//! sent later. The initial sequence number binds the two, so that a connection that reuses
//! the port of an earlier one takes nothing that belongs to the other.

/// Whether a pod may have one more entry in a map with this budget.
#[inline(always)]
pub fn has_room(used: i64, budget: usize) -> bool {
    used < budget as i64
}

/// Whether the entry that was published with `published`, the opening end's first sequence
/// number after the SYN, belongs to the connection that expects `expected` next. Both are as
/// the kernel has them during the handshake (`snd_una`, `rcv_nxt`).
#[inline(always)]
pub fn is_same_connection(published: u32, expected: u32) -> bool {
    published == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_room_ends_at_the_budget_and_survives_a_reset_count() {
        assert!(has_room(0, 2) && has_room(1, 2));
        assert!(!has_room(2, 2) && !has_room(3, 2));
        assert!(has_room(-1, 2));
    }

    #[test]
    fn is_same_connection_compares_sequence_numbers() {
        assert!(is_same_connection(u32::MAX, u32::MAX));
        assert!(!is_same_connection(1, 2));
    }
}
