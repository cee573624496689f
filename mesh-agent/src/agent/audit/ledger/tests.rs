//! How a pod stands follows from what the runs found, and since when from their times.

use std::path::Path;

use super::*;
use crate::config::read_objects;
use crate::model::build;

const STEP: Duration = Duration::from_secs(2);

fn web() -> Arc<Workload> {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: \
                {isthmus.dev/mesh: enabled}}, spec: {nodeName: here}, status: \
                {podIPs: [{ip: 10.0.0.1}]}}";
    let objects = read_objects(Path::new("world.yaml"), text).unwrap();
    let world = build([&objects], "here", None).world;
    Arc::clone(world.workload("shop/web").unwrap())
}

/// A ledger, with the time of its runs.
struct Audited {
    ledger: Ledger,
    now: Instant,
}

impl Audited {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            now: Instant::now(),
        }
    }

    /// One more run, [`STEP`] after the last.
    fn run(&mut self, node: impl FnOnce(&mut Examined), pod: impl FnOnce(&mut Examined)) {
        self.now += STEP;
        self.ledger.next_run();
        let (mut all, mut web) = (Examined::node(), Examined::pod(&web(), true));
        node(&mut all);
        pod(&mut web);
        self.ledger.record(Run {
            began: self.now,
            ended: self.now,
            node: all,
            pods: vec![web],
        });
    }

    fn report(&self) -> AuditReport {
        self.ledger.report("here", self.now)
    }

    fn state(&self) -> AuditState {
        self.report().pods[0].state
    }
}

fn nothing(_: &mut Examined) {}

#[test]
fn what_is_put_back_leaves_the_pod_covered_and_is_on_record() {
    let mut audited = Audited::new();
    audited.run(nothing, nothing);
    audited.run(nothing, |pod| {
        pod.settle(&[Fault::NotGuarded, Fault::NotRedirected], &[], None);
    });
    let report = audited.report();
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.run, report.pods[0].since_s), (2, 2));
    let [guard, entry] = &report.repairs[..] else {
        panic!("{report:?}");
    };
    assert_eq!((&*guard.what, &*entry.what), ("guard_entry", "pod_entry"));
    assert_eq!(guard.pod.as_deref(), Some("shop/web"));
    assert_eq!(guard.missing_at_most_ms, Some(2000));
    assert_eq!(audited.ledger.counts()["pod_entry"], 1);
}

#[test]
fn what_cannot_be_put_back_stands_with_its_age_and_the_reason() {
    let mut audited = Audited::new();
    audited.run(nothing, nothing);
    let fails = |pod: &mut Examined| {
        let faults = [Fault::NotGuarded];
        pod.settle(&faults, &faults, Some("no memory".into()));
    };
    audited.run(nothing, fails);
    audited.run(nothing, fails);
    let report = audited.report();
    let pod = &report.pods[0];
    assert_eq!((pod.state, pod.since_s), (AuditState::Uncovered, 2));
    assert_eq!(
        (&*pod.problems[0].what, pod.problems[0].since_s),
        ("guard_entry", 2)
    );
    assert!(
        pod.problems[0]
            .detail
            .ends_with("cannot be put back: no memory")
    );
    assert!(report.repairs.is_empty() && !report.is_good());
    assert_eq!(audited.ledger.states()[&AuditState::Uncovered], 1);

    audited.run(nothing, |pod| pod.settle(&[Fault::NotGuarded], &[], None));
    assert_eq!(audited.state(), AuditState::Covered);
    assert_eq!(audited.report().repairs[0].missing_at_most_ms, Some(4000));
}

#[test]
fn what_all_pods_depend_on_uncovers_each() {
    let mut audited = Audited::new();
    let lost = [Fault::Detached("isthmus_conn4")];
    audited.run(
        |node| node.settle(&lost, &lost, Some("EBUSY".into())),
        nothing,
    );
    assert_eq!(audited.state(), AuditState::Uncovered);
    assert_eq!(
        audited.report().node_problems,
        audited.report().pods[0].problems
    );
    audited.run(|node| node.unknown = Some("EPERM".into()), nothing);
    assert_eq!(audited.state(), AuditState::Unknown);
}

#[test]
fn what_is_known_to_be_missing_goes_before_what_is_not_known() {
    let mut audited = Audited::new();
    audited.run(nothing, |pod| {
        pod.settle(&[Fault::NotGuarded], &[Fault::NotGuarded], None);
        pod.unknown = Some("no sockets".into());
    });
    assert_eq!(audited.state(), AuditState::Uncovered);
    assert_eq!(audited.report().pods[0].problems.len(), 2);
}

#[test]
fn a_pod_that_left_is_forgotten_and_the_record_is_bounded() {
    let mut audited = Audited::new();
    for _ in 0..=REPAIRS {
        audited.run(nothing, |pod| pod.settle(&[Fault::NotGuarded], &[], None));
    }
    assert_eq!(audited.report().repairs.len(), REPAIRS);
    audited.ledger.record(Run {
        began: audited.now,
        ended: audited.now,
        node: Examined::node(),
        pods: Vec::new(),
    });
    assert!(audited.report().pods.is_empty());
}
