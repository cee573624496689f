//! A connection's account from opening to its one line: log, table, cutting, counters.

mod ruling;
mod scrape;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::logging::tests::Kept;
use super::logging::{Format, LogQueue, subscriber};
use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const TLS: Security = Security::MutualTls {
    version: "TLSv1.3",
    suite: "TLS_AES_256_GCM_SHA384",
};

/// An observer whose log is kept.
struct Bench {
    observer: Arc<Observer>,
    registry: Registry,
    log: LogQueue,
    kept: Kept,
}

impl Bench {
    fn new() -> Self {
        let kept = Kept::default();
        let log = LogQueue::spawn(kept.clone(), 100_000).unwrap();
        let registry = Registry::new();
        log.register(&registry);
        let subscriber = subscriber(Format::Json, EnvFilter::new("info"), log.clone());
        let access = tracing::subscriber::with_default(subscriber, || {
            AccessLog::spawn(log.dropped()).unwrap()
        });
        let observer = Observer::new(&registry, access);
        Self {
            observer,
            registry,
            log,
            kept,
        }
    }

    fn open(&self, direction: Direction) -> Connection {
        self.observer.open(Opening {
            direction,
            pod: pod("web-6d5f-x1", "web"),
            source: addr("10.1.0.5:40000"),
            destination: addr("10.1.0.9:80"),
        })
    }

    fn lines(&self) -> Vec<Value> {
        assert!(self.observer.access_log().flush(LIMIT));
        assert!(self.log.flush(LIMIT));
        self.kept
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pod(name: &str, workload: &str) -> Arc<PodLabels> {
    Arc::new(PodLabels {
        name: name.into(),
        namespace: "shop".into(),
        workload: workload.into(),
        identity: format!("spiffe://cluster.local/ns/shop/sa/{workload}").into(),
        app: Some(workload.into()),
        version: None,
    })
}

#[test]
fn a_finished_connection_writes_one_line_with_every_field() {
    let bench = Bench::new();
    let mut connection = bench.open(Direction::Outbound);
    connection.set_service("shop/db".into());
    connection.set_upstream(addr("[fd00::8]:15008"));
    connection.set_peer_identity("spiffe://cluster.local/ns/shop/sa/other".into());
    connection.retried(Reason::AppRefused);
    connection.set_upstream(addr("[fd00::9]:15008"));
    connection.set_peer_identity("spiffe://cluster.local/ns/shop/sa/db".into());
    connection.set_security(TLS);
    connection.established();
    connection.meter().add_sent(10);
    connection.meter().add_received(2000);
    let id = connection.id().to_string();
    connection.finish(Outcome::Ok);

    let lines = bench.lines();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    for (field, expected) in [
        ("target", "access"),
        ("level", "INFO"),
        ("direction", "outbound"),
        ("connection", &id),
        ("pod", "shop/web-6d5f-x1"),
        ("src", "10.1.0.5:40000"),
        ("dst", "10.1.0.9:80"),
        ("upstream", "[fd00::9]:15008"),
        ("service", "shop/db"),
        ("source_identity", "spiffe://cluster.local/ns/shop/sa/web"),
        (
            "destination_identity",
            "spiffe://cluster.local/ns/shop/sa/db",
        ),
        ("security", "mutual_tls"),
        ("tls_version", "TLSv1.3"),
        ("tls_suite", "TLS_AES_256_GCM_SHA384"),
        ("outcome", "ok"),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert_eq!(line["retries"], 1);
    assert_eq!(line["bytes_sent"], 10);
    assert_eq!(line["bytes_received"], 2000);
    assert!(line["duration_ms"].is_u64());
    for absent in ["client", "reason", "detail"] {
        assert!(line.get(absent).is_none(), "{absent} in {line}");
    }
}

#[test]
fn a_denied_inbound_connection_names_its_reason_and_the_identities_the_right_way_round() {
    let bench = Bench::new();
    let connection = bench.open(Direction::Inbound);
    connection.set_peer_identity("spiffe://other/ns/a/sa/b".into());
    connection.set_client(addr("10.7.0.1:5555"));
    connection.finish_with(
        Outcome::Denied(Reason::TlsForeignTrustDomain),
        "presented \"other\"\nline 2",
    );

    let lines = bench.lines();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["outcome"], "denied");
    assert_eq!(line["reason"], "TLS_FOREIGN_TRUST_DOMAIN");
    assert_eq!(line["detail"], "presented \"other\"\nline 2");
    assert_eq!(line["client"], "10.7.0.1:5555");
    assert_eq!(line["source_identity"], "spiffe://other/ns/a/sa/b");
    assert_eq!(
        line["destination_identity"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
}

#[test]
fn a_connection_that_is_dropped_or_lost_in_a_panic_still_writes_one_line() {
    let bench = Bench::new();
    drop(bench.open(Direction::Outbound));
    let lost = bench.open(Direction::Inbound);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = lost;
        std::panic::panic_any("a defect");
    }));
    assert!(panicked.is_err());

    let lines = bench.lines();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!(line["outcome"], "failed");
        assert_eq!(line["reason"], "ABORTED");
    }
    assert_eq!(bench.observer.open_connections(), 0);
}

#[test]
fn a_detail_that_a_peer_made_long_is_cut_short() {
    let bench = Bench::new();
    bench
        .open(Direction::Inbound)
        .finish_with(Outcome::Failed(Reason::BadRequest), "é".repeat(100_000));
    let lines = bench.lines();
    let detail = lines[0]["detail"].as_str().unwrap();
    assert!(
        detail.len() <= 515 && detail.ends_with('…'),
        "{} bytes",
        detail.len()
    );
}

#[test]
fn every_connection_of_many_threads_has_one_line_one_id_and_leaves_the_table() {
    const THREADS: usize = 8;
    const EACH: usize = 500;
    let bench = Bench::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    for n in 0..EACH {
                        let mut connection = bench.open(Direction::Outbound);
                        connection.established();
                        connection.meter().add_sent(1);
                        held.push(connection);
                        if n % 7 == 0 {
                            held.drain(..)
                                .for_each(|connection| connection.finish(Outcome::Ok));
                        }
                    }
                    held.drain(..)
                        .for_each(|connection| connection.finish(Outcome::Ok));
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.registry.encode().unwrap();
                assert!(bench.observer.connections().len() <= THREADS * 8);
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });

    let lines = bench.lines();
    let ids: std::collections::HashSet<_> = lines
        .iter()
        .map(|line| line["connection"].as_str().unwrap())
        .collect();
    assert_eq!(lines.len(), THREADS * EACH);
    assert_eq!(ids.len(), THREADS * EACH);
    assert_eq!(bench.observer.open_connections(), 0);
    // The scrapes in between neither lost nor doubled a byte.
    let metrics = bench.registry.encode().unwrap();
    for family in ["connections_opened", "connections_closed", "received_bytes"] {
        assert_eq!(
            scrape::sum(&metrics, &format!("istio_tcp_{family}_total")),
            4000,
            "{family}"
        );
    }
}

#[test]
fn the_listing_shows_what_is_open_oldest_first() {
    let bench = Bench::new();
    let first = bench.open(Direction::Outbound);
    let second = bench.open(Direction::Inbound);
    second.set_security(Security::Plaintext);
    second.set_peer(pod("db-0", "db"));
    second.meter().add_received(3);

    let all = bench.observer.connections();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].id, first.id().to_string());
    assert_eq!(all[0].security, None);
    assert_eq!(all[1].peer.as_deref(), Some("shop/db-0"));
    assert_eq!(all[1].security.as_deref(), Some("plaintext"));
    assert_eq!((all[1].bytes_sent, all[1].bytes_received), (0, 3));

    first.finish(Outcome::Ok);
    assert_eq!(bench.observer.connections().len(), 1);
}

#[tokio::test]
async fn a_cut_reaches_only_those_it_is_meant_for() {
    let bench = Bench::new();
    let inbound = bench.open(Direction::Inbound);
    let outbound = bench.open(Direction::Outbound);
    let waiting = tokio::spawn(inbound.cut());
    // Let the waiter enlist before the cut comes.
    tokio::task::yield_now().await;

    let cut = bench.observer.cut(Reason::PolicyChanged, |c| {
        c.direction() == Direction::Inbound
    });
    assert_eq!(cut, 1);
    tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(inbound.cut_reason(), Some(Reason::PolicyChanged));
    assert_eq!(outbound.cut_reason(), None);

    // The first reason stays, and who waits late does not wait.
    assert!(!bench.observer.cut_one(inbound.id(), Reason::Shutdown));
    assert_eq!(inbound.cut_reason(), Some(Reason::PolicyChanged));
    tokio::time::timeout(LIMIT, inbound.cut()).await.unwrap();

    let id = outbound.id().to_string().parse().unwrap();
    assert!(bench.observer.cut_one(id, Reason::PodReleased));
    outbound.finish(Outcome::Cut(Reason::PodReleased));
    assert!(!bench.observer.cut_one(id, Reason::PodReleased));
    inbound.finish(Outcome::Cut(Reason::PolicyChanged));
}
