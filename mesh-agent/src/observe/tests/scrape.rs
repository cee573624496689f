//! The metrics' text: names, labels, and values that are never doubled.

use super::{Bench, TLS, pod};
use crate::observe::*;

/// The sum of a counter over its label sets.
pub(super) fn sum(metrics: &str, name: &str) -> u64 {
    samples(metrics, name).map(|(_, value)| value).sum()
}

fn samples<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| (labels, value.parse().unwrap()))
    })
}

#[test]
fn an_outbound_connection_is_counted_under_istios_names_and_labels() {
    let bench = Bench::new();
    let mut connection = bench.open(Direction::Outbound);
    connection.set_peer(pod("db-0", "db"));
    connection.set_peer_identity("spiffe://cluster.local/ns/shop/sa/db".into());
    connection.set_service("shop/db".into());
    connection.set_security(TLS);
    connection.established();
    connection.meter().add_sent(5);
    connection.meter().add_received(70);
    let metrics = bench.registry.encode().unwrap();
    let labels = "{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",source_app=\"web\",\
        source_version=\"unknown\",destination_workload=\"db\",\
        destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/db\",destination_app=\"db\",\
        destination_version=\"unknown\",destination_service=\"shop/db\",request_protocol=\"tcp\",\
        response_flags=\"-\",connection_security_policy=\"mutual_tls\"}";
    for (name, value) in [
        ("istio_tcp_connections_opened_total", 1),
        ("istio_tcp_connections_closed_total", 0),
        ("istio_tcp_received_bytes_total", 5),
        ("istio_tcp_sent_bytes_total", 70),
    ] {
        let line = format!("{name}{labels} {value}");
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line} in\n{metrics}"
        );
    }
    connection.finish(Outcome::Ok);
    let metrics = bench.registry.encode().unwrap();
    assert_eq!(sum(&metrics, "istio_tcp_connections_closed_total"), 1);
    assert_eq!(sum(&metrics, "istio_tcp_sent_bytes_total"), 70);
}

#[test]
fn live_bytes_show_and_are_counted_once() {
    let bench = Bench::new();
    let mut connection = bench.open(Direction::Inbound);
    connection.established();
    let mut expected = 0;
    for bytes in [1, 20, 0, 300] {
        connection.meter().add_sent(bytes);
        expected += bytes;
        let metrics = bench.registry.encode().unwrap();
        // Inbound, what the application sends is the response.
        assert_eq!(sum(&metrics, "istio_tcp_sent_bytes_total"), expected);
        assert_eq!(sum(&metrics, "istio_tcp_received_bytes_total"), 0);
    }
    connection.meter().add_sent(4000);
    connection.finish(Outcome::Ok);
    let metrics = bench.registry.encode().unwrap();
    assert_eq!(sum(&metrics, "istio_tcp_sent_bytes_total"), expected + 4000);
}

#[test]
fn refusals_and_breaks_are_counted_by_direction_and_reason() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench
            .open(Direction::Inbound)
            .finish(Outcome::Denied(Reason::PlaintextRefused));
    }
    bench
        .open(Direction::Outbound)
        .finish_with(Outcome::Failed(Reason::UpstreamRefused), "free");
    let mut broken = bench.open(Direction::Outbound);
    for reason in [
        Reason::AppRefused,
        Reason::AppRefused,
        Reason::UpstreamTimeout,
    ] {
        broken.retried(reason);
    }
    broken.established();
    broken.finish(Outcome::Failed(Reason::TunnelLost));

    let metrics = bench.registry.encode().unwrap();
    for line in [
        "isthmus_connections_refused_total{direction=\"inbound\",reason=\"PLAINTEXT_REFUSED\"} 3",
        "isthmus_connections_refused_total{direction=\"outbound\",reason=\"UPSTREAM_REFUSED\"} 1",
        "isthmus_connections_broken_total{direction=\"outbound\",reason=\"TUNNEL_LOST\"} 1",
        "isthmus_endpoint_retries_total{reason=\"APP_REFUSED\"} 2",
        "isthmus_endpoint_retries_total{reason=\"UPSTREAM_TIMEOUT\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line} in\n{metrics}"
        );
    }
    assert!(
        !metrics.contains("free"),
        "detail became a label:\n{metrics}"
    );
    let denied: u64 = samples(&metrics, "istio_tcp_connections_closed_total")
        .filter(|(labels, _)| labels.contains("response_flags=\"DENY\""))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(denied, 3);
}

#[test]
fn the_pods_of_one_workload_share_a_series() {
    let bench = Bench::new();
    for name in ["web-1", "web-2", "web-3"] {
        let opening = Opening {
            direction: Direction::Outbound,
            pod: pod(name, "web"),
            source: super::addr("10.1.0.5:40000"),
            destination: super::addr("10.1.0.9:80"),
        };
        bench.observer.open(opening).finish(Outcome::Ok);
    }
    let metrics = bench.registry.encode().unwrap();
    let opened: Vec<_> = samples(&metrics, "istio_tcp_connections_opened_total").collect();
    assert_eq!(opened.len(), 1, "{metrics}");
    assert_eq!(opened[0].1, 3);
}

#[test]
fn values_read_at_scrape_and_odd_label_values_are_well_formed() {
    let registry = Registry::new();
    registry.counter_at_scrape("isthmus_guard_dropped_packets", "Dropped", || {
        vec![Sample {
            labels: vec![("direction", "in\"\n".into())],
            value: 7,
        }]
    });
    registry.gauge_at_scrape("isthmus_enrolled_pods", "Pods", || Sample::plain(2.0));
    let metrics = registry.encode().unwrap();
    for line in [
        "# TYPE isthmus_guard_dropped_packets counter",
        "isthmus_guard_dropped_packets_total{direction=\"in\\\"\\n\"} 7",
        "# TYPE isthmus_enrolled_pods gauge",
        "isthmus_enrolled_pods 2.0",
        concat!(
            "isthmus_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "# EOF",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line} in\n{metrics}"
        );
    }
}
