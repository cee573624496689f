//! The choice among endpoints, with time as an input.

use std::collections::HashSet;

use super::*;

fn endpoints(count: u8) -> Vec<Endpoint> {
    let addr = |n| SocketAddr::from(([10, 0, 0, n], 80));
    let endpoint = |n| Endpoint {
        addr: addr(n),
        workload: None,
    };
    (0..count).map(endpoint).collect()
}

/// A draw that gives these two places of `count`.
fn drawing(count: usize, one: usize, other: usize) -> u64 {
    let half = |place: usize, limit: usize| (((place as u64) << 32) / limit as u64) + 1;
    let behind = other - usize::from(other > one);
    let random = half(one, count) | half(behind, count - 1) << 32;
    assert_eq!(draw(count, random), (one, other));
    random
}

#[test]
fn every_pair_is_drawn_and_nothing_else() {
    let edges = [0, 1, 1 << 31, u64::from(u32::MAX), u64::MAX];
    for count in 1..6 {
        let mut pairs = HashSet::new();
        for step in 0..4096_u64 {
            // Steps of both halves, of different lengths.
            pairs.insert(draw(count, step.wrapping_mul(0x0123_4567_89ab_cdef)));
        }
        pairs.extend(edges.map(|random| draw(count, random)));
        let all = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let expected = all.filter(|(a, b)| a != b || count == 1);
        assert_eq!(pairs, expected.collect(), "{count}");
    }
}

#[test]
fn the_less_loaded_of_two_is_taken_and_the_first_of_equals() {
    let (balance, endpoints, now) = (Rc::new(Balance::default()), endpoints(3), Instant::now());
    let choose = |one, other| balance.choose(&endpoints, drawing(3, one, other), now);
    assert_eq!((choose(0, 1), choose(1, 0)), (0, 1));
    let first = balance.busy(endpoints[0].addr);
    let second = balance.busy(endpoints[0].addr);
    let third = balance.busy(endpoints[1].addr);
    assert_eq!((choose(0, 1), choose(1, 0), choose(0, 2)), (1, 1, 2));
    drop((first, second));
    assert_eq!((choose(0, 1), choose(1, 0)), (0, 0));
    drop(third);
    assert!(
        balance.open.borrow().is_empty(),
        "nothing is kept of ended ones"
    );
}

#[test]
fn who_failed_lately_is_tried_last_and_for_a_while() {
    let (balance, endpoints, now) = (Balance::default(), endpoints(4), Instant::now());
    let choose = |one, other, now| balance.choose(&endpoints, drawing(4, one, other), now);
    let rest = |first, now| balance.rest(&endpoints, first, 8, now);
    assert_eq!(rest(1, now), [2, 3, 0]);
    balance.failed(endpoints[2].addr, now);
    assert_eq!((choose(2, 0, now), choose(0, 2, now)), (0, 0));
    assert_eq!(rest(1, now), [3, 0, 2]);
    balance.failed(endpoints[0].addr, now);
    assert_eq!(
        choose(2, 0, now),
        3,
        "neither of those drawn, while there is another"
    );
    assert_eq!(rest(3, now), [1, 0, 2]);
    assert_eq!(balance.rest(&endpoints, 3, 2, now), [1, 0]);
    balance.succeeded(endpoints[0].addr);
    assert_eq!(choose(2, 0, now), 0);
    let later = now + SHUNNED;
    assert_eq!(choose(2, 0, later), 2);
    assert_eq!(rest(1, later), [2, 3, 0]);
}

#[test]
fn when_all_have_failed_one_is_tried_all_the_same() {
    let (balance, endpoints, now) = (Balance::default(), endpoints(3), Instant::now());
    for endpoint in &endpoints {
        balance.failed(endpoint.addr, now);
    }
    assert_eq!(balance.choose(&endpoints, drawing(3, 1, 2), now), 1);
    assert_eq!(balance.rest(&endpoints, 1, 8, now), [2, 0]);
}

#[test]
fn a_single_endpoint_is_chosen_whatever_it_did() {
    let (balance, endpoints, now) = (Balance::default(), endpoints(1), Instant::now());
    balance.failed(endpoints[0].addr, now);
    assert_eq!(balance.choose(&endpoints, u64::MAX, now), 0);
    assert_eq!(balance.rest(&endpoints, 0, 8, now), [0; 0]);
}

#[test]
fn the_memory_of_failures_is_bounded() {
    let (balance, now) = (Balance::default(), Instant::now());
    let addr = |n: usize| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
    for n in 0..MAX_FAILED + 10 {
        balance.failed(addr(n), now + Duration::from_millis(n as u64 / 10));
    }
    let at = now + Duration::from_secs(1);
    assert_eq!(balance.failed.borrow().len(), MAX_FAILED);
    assert!(balance.is_shunned(addr(MAX_FAILED + 9), at));
    assert!(!balance.is_shunned(addr(0), at) || !balance.is_shunned(addr(9), at));
    balance.failed(addr(0), now + SHUNNED * 2);
    assert_eq!(
        balance.failed.borrow().len(),
        1,
        "those of the past went first"
    );
}
