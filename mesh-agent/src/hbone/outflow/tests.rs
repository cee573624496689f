use super::*;

const MIB: i64 = 1 << 20;

/// Windows as ztunnel has them.
fn ztunnel() -> Arc<Outflow> {
    let outflow = Outflow::new();
    outflow.received(Seen::InitialWindow(4 << 20));
    let by = u32::try_from(16 * MIB - INITIAL_WINDOW).unwrap();
    outflow.received(Seen::WindowUpdate { stream: 0, by });
    outflow
}

/// Sends on a stream whose reader does not read, until it may not or its window is full.
fn stall(outflow: &Outflow, stream: &Allowance) -> i64 {
    let mut cx = Context::from_waker(Waker::noop());
    let mut sent = 0;
    while sent < 4 * MIB
        && let Poll::Ready(allowed) = stream.poll(&mut cx, 64 << 10)
    {
        let window = usize::try_from(4 * MIB - sent).unwrap();
        let allowed = allowed.min(window);
        stream.handed_over(allowed);
        outflow.wrote(Seen::Data {
            stream: stream.id,
            length: u32::try_from(allowed).unwrap(),
        });
        sent += i64::try_from(allowed).unwrap();
    }
    sent
}

#[test]
fn allowance_of_one_stream_is_its_whole_window() {
    let outflow = ztunnel();
    // Also beside many that are idle.
    let idle: Vec<_> = (1..100).map(|n| outflow.stream(2 * n + 1)).collect();
    let bulk = outflow.stream(1);
    assert_eq!(stall(&outflow, &bulk), 4 * MIB);
    drop(idle);
}

#[test]
fn allowances_of_stalled_streams_leave_each_other_a_share() {
    let outflow = ztunnel();
    let streams: Vec<_> = (0..9).map(|n| outflow.stream(2 * n + 1)).collect();
    let share = outflow.lock().share().unwrap();
    for stream in &streams[..8] {
        assert!(stall(&outflow, stream) >= share);
    }
    let free = outflow.lock().free;
    assert!(free > 0, "nothing is left for the ninth");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(streams[8].poll(&mut cx, 1000).is_ready());
}

#[test]
fn allowances_of_a_server_leave_a_share_to_streams_that_are_opened_later() {
    let outflow = ztunnel();
    outflow.plan();
    let mut streams = Vec::new();
    for n in 0..8 {
        let stream = outflow.stream(2 * n + 1);
        stall(&outflow, &stream);
        streams.push(stream);
    }
    let state = outflow.lock();
    assert!(
        state.free >= state.share().unwrap(),
        "{} are left",
        state.free
    );
}

#[test]
fn allowances_count_what_is_handed_over_and_not_yet_written() {
    let outflow = ztunnel();
    let streams: Vec<_> = (0..9).map(|n| outflow.stream(2 * n + 1)).collect();
    let mut cx = Context::from_waker(Waker::noop());
    let mut handed = 0;
    // Eight in turn, and nothing is written meanwhile.
    loop {
        let before = handed;
        for stream in &streams[..8] {
            if let Poll::Ready(length) = stream.poll(&mut cx, usize::MAX) {
                stream.handed_over(length);
                handed += i64::try_from(length).unwrap();
            }
        }
        if handed == before {
            break;
        }
    }
    let share = outflow.lock().share().unwrap();
    assert!(handed <= 16 * MIB - share + MOST as i64, "{handed}");
}

#[test]
fn allowance_comes_back_with_the_windows_and_with_the_end_of_others() {
    let outflow = ztunnel();
    let streams: Vec<_> = (0..8).map(|n| outflow.stream(2 * n + 1)).collect();
    for stream in &streams {
        stall(&outflow, stream);
    }
    let mut cx = Context::from_waker(Waker::noop());
    let last = &streams[7];
    assert!(last.poll(&mut cx, 1).is_pending());
    outflow.received(Seen::WindowUpdate {
        stream: 15,
        by: 1 << 20,
    });
    assert_eq!(last.poll(&mut cx, usize::MAX), Poll::Ready(MOST));
    last.handed_over(1 << 20);
    assert!(last.poll(&mut cx, 1).is_pending());
    outflow.received(Seen::WindowUpdate {
        stream: 0,
        by: 8 << 20,
    });
    assert!(last.poll(&mut cx, 1).is_ready());
}

#[test]
fn has_room_tells_a_tunnel_whose_streams_stall_from_an_idle_one() {
    let outflow = ztunnel();
    let mut streams: Vec<_> = (0..90).map(|n| outflow.stream(2 * n + 1)).collect();
    assert!(outflow.has_room(), "idle streams took the room");
    streams.truncate(4);
    for stream in &streams[..3] {
        stall(&outflow, stream);
    }
    assert!(outflow.has_room());
    stall(&outflow, &streams[3]);
    assert!(!outflow.has_room());
    outflow.received(Seen::WindowUpdate {
        stream: 0,
        by: 8 << 20,
    });
    assert!(outflow.has_room());
}

#[test]
fn allowance_is_not_limited_where_one_stream_may_fill_the_connection() {
    let outflow = Outflow::new();
    outflow.received(Seen::InitialWindow(i32::MAX as u32));
    let streams = [outflow.stream(1), outflow.stream(3)];
    let mut cx = Context::from_waker(Waker::noop());
    streams[0].handed_over(1 << 30);
    assert_eq!(streams[0].poll(&mut cx, 1 << 20), Poll::Ready(MOST));
    assert!(outflow.has_room());
}
