//! The bound on label sets.

use super::*;
use crate::observe::labels::PodLabels;

fn pod(n: usize) -> Arc<PodLabels> {
    Arc::new(PodLabels {
        name: format!("pod-{n}").into(),
        namespace: "shop".into(),
        workload: format!("workload-{n}").into(),
        identity: "spiffe://cluster.local/ns/shop/sa/a".into(),
        app: None,
        version: None,
    })
}

fn open(table: &Table, n: usize) -> Arc<LiveConnection> {
    let addr = ([10, 0, 0, 1], 80).into();
    table.open(Direction::Outbound, pod(n), addr, addr)
}

#[test]
fn idle_label_sets_make_room_oldest_first() {
    let table = Arc::new(Table::new());
    let traffic = Traffic::with_limit(Arc::clone(&table), 8);
    for n in 0..100 {
        let connection = open(&table, n);
        traffic.opened(&connection);
        traffic.closed(&connection, None);
        assert!(traffic.lock().len() <= 8);
    }
    let newest = Labels::of(&open(&table, 99), &Details::default());
    let oldest = Labels::of(&open(&table, 0), &Details::default());
    assert!(traffic.lock().contains_key(&newest));
    assert!(!traffic.lock().contains_key(&oldest));
}

#[test]
fn when_all_label_sets_are_in_use_newcomers_are_counted_without_names() {
    let table = Arc::new(Table::new());
    let traffic = Traffic::with_limit(Arc::clone(&table), 4);
    let held: Vec<_> = (0..10).map(|n| open(&table, n)).collect();
    for connection in &held {
        traffic.opened(connection);
    }
    let all = traffic.lock();
    assert_eq!(all.len(), 5, "four with names and one without");
    let opened: u64 = all
        .values()
        .map(|series| series.opened.load(Ordering::Relaxed))
        .sum();
    assert_eq!(opened, 10);
}
