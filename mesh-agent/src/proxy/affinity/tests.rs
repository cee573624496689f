//! Who stays where, with time as an input.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn key(service: &str, port: u16, client: u32) -> Key {
    Key {
        namespace: "shop".into(),
        service: service.into(),
        port,
        client: IpAddr::from(client.to_be_bytes()),
    }
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

#[test]
fn a_client_stays_until_its_time_or_its_endpoint_is_over() {
    let (affinity, start) = (Affinity::new(), Instant::now());
    let lead = |after: Duration, takes: bool, other| {
        affinity.lead(key("api", 80, 1), HOUR, start + after, |_| takes, at(other))
    };
    assert_eq!(lead(Duration::ZERO, true, 1), at(1));
    assert_eq!(lead(HOUR - Duration::from_secs(1), true, 2), at(1));
    // From the last use on, not from the first.
    assert_eq!(lead(HOUR * 2 - Duration::from_secs(2), true, 2), at(1));
    assert_eq!(lead(HOUR * 3, true, 2), at(2));
    assert_eq!(lead(HOUR * 3, false, 3), at(3));
    assert_eq!(lead(HOUR * 3, true, 4), at(3));
    affinity.moved(&key("api", 80, 1), at(5));
    assert_eq!(lead(HOUR * 3, true, 4), at(5));
}

#[test]
fn a_shorter_time_holds_for_who_came_before_it() {
    let (affinity, start) = (Affinity::new(), Instant::now());
    let lead = |timeout, after, other| {
        affinity.lead(
            key("api", 80, 1),
            timeout,
            start + after,
            |_| true,
            at(other),
        )
    };
    assert_eq!(lead(HOUR, Duration::ZERO, 1), at(1));
    assert_eq!(lead(HOUR / 60, HOUR / 2, 2), at(2));
}

#[test]
fn ports_services_and_clients_are_apart() {
    let (affinity, now) = (Affinity::new(), Instant::now());
    let keys = [
        key("api", 80, 1),
        key("api", 81, 1),
        key("web", 80, 1),
        key("api", 80, 2),
    ];
    for (key, n) in keys.iter().zip(1..) {
        assert_eq!(
            affinity.lead(key.clone(), HOUR, now, |_| true, at(n)),
            at(n)
        );
    }
    for (key, n) in keys.iter().zip(1..) {
        assert_eq!(
            affinity.lead(key.clone(), HOUR, now, |_| true, at(9)),
            at(n)
        );
    }
}

#[test]
fn the_memory_is_bounded_and_forgets_who_was_away_the_longest() {
    let (affinity, start) = (Affinity::new(), Instant::now());
    let clients = u32::try_from(SHARDS * PER_SHARD * 2).unwrap();
    let lead = |client: u32, other| {
        let now = start + Duration::from_millis(client.into());
        affinity.lead(key("api", 80, client), HOUR, now, |_| true, at(other))
    };
    for client in 0..clients {
        lead(client, 1);
    }
    for shard in &affinity.shards {
        assert!(shard.lock().unwrap().len() <= PER_SHARD);
    }
    assert_eq!(lead(clients - 1, 2), at(1));
    assert_eq!(lead(0, 2), at(2));
}
