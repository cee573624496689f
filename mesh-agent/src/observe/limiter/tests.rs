//! Which refusals have lines, and what becomes of the others.

use std::net::Ipv4Addr;

use super::*;

fn source(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

/// How many of `count` refusals have a line.
fn admitted(limiter: &LineLimiter<u32>, pod: u32, source: IpAddr, count: u64, at: Instant) -> u64 {
    (0..count)
        .filter(|_| limiter.admit(&pod, source, "POLICY_DENIED", at))
        .count() as u64
}

#[test]
fn limiter_writes_the_first_lines_and_counts_the_rest() {
    let limiter = LineLimiter::new();
    let now = Instant::now();
    assert_eq!(admitted(&limiter, 1, source(1), 1000, now), LINES_PER_KEY);
    assert!(limiter.is_active());
    assert_eq!(limiter.ended(now + WINDOW / 2), []);
    let ended = limiter.ended(now + WINDOW);
    let [one] = &ended[..] else {
        panic!("{ended:?}")
    };
    assert_eq!((one.pod, one.count), (1, 1000 - LINES_PER_KEY));
    assert_eq!(one.key.source, Some(source(1)));
    assert_eq!(one.key.reason, "POLICY_DENIED");
    assert!(one.first <= one.last);
    assert!(!limiter.is_active());
    let later = now + WINDOW;
    assert_eq!(admitted(&limiter, 1, source(1), 1000, later), LINES_PER_KEY);
}

#[test]
fn limiter_keeps_sources_reasons_and_pods_apart() {
    let limiter = LineLimiter::new();
    let now = Instant::now();
    admitted(&limiter, 1, source(1), 100_000, now);
    assert!(limiter.admit(&1, source(2), "POLICY_DENIED", now));
    assert!(limiter.admit(&1, source(1), "PLAINTEXT_REFUSED", now));
    assert!(limiter.admit(&2, source(1), "POLICY_DENIED", now));
}

#[test]
fn limiter_bounds_the_lines_and_sources_of_a_pod() {
    let limiter = LineLimiter::new();
    let now = Instant::now();
    let mut lines = 0;
    for n in 0..10_000 {
        lines += admitted(&limiter, 1, source(n), 10, now);
    }
    assert_eq!(lines, LINES_PER_POD);
    assert_eq!(
        admitted(&limiter, 2, source(1), 10, now),
        10,
        "another pod has its own"
    );
    let ended = limiter.end_all();
    assert!(ended.len() <= KEYS_PER_POD + 1, "{} keys", ended.len());
    let count: u64 = ended.iter().map(|one| one.count).sum();
    assert_eq!(count + lines, 100_000, "every refusal is counted");
    let together = ended.iter().find(|one| one.key.source.is_none());
    assert!(together.is_some_and(|one| one.count > 90_000));
}

#[test]
fn limiter_reports_nothing_where_every_line_was_written() {
    let limiter = LineLimiter::new();
    let now = Instant::now();
    admitted(&limiter, 1, source(1), LINES_PER_KEY, now);
    assert_eq!(limiter.ended(now + WINDOW), []);
}
