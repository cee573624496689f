use super::*;

fn from(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[tokio::test(start_paused = true)]
async fn slot_is_evicted_when_another_connection_needs_it() {
    let all = Handshakes::new(2);
    let first = all.admit(from(1));
    let second = all.admit(from(1));
    let third = all.admit(from(2));
    assert_eq!(first.evicted().await, Dropped::Evicted(2));
    // Also when it is asked again.
    assert_eq!(first.evicted().await, Dropped::Evicted(2));
    assert_eq!((all.used(), all.dropped()), (2, 1));
    drop(first);
    assert_eq!(all.used(), 2, "an evicted slot was freed twice");
    drop((second, third));
    assert_eq!(all.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn slot_has_a_deadline_for_the_first_byte_under_pressure_alone() {
    let all = Handshakes::new(4);
    let slots: Vec<Slot> = (0..3).map(|last| all.admit(from(last))).collect();
    let began = Instant::now();
    assert_eq!(slots[2].overdue().await, Dropped::Silent(4));
    assert_eq!(began.elapsed(), FIRST_BYTE_DEADLINE);
    let patient = tokio::time::timeout(100 * FIRST_BYTE_DEADLINE, slots[1].overdue());
    assert!(patient.await.is_err());
}
