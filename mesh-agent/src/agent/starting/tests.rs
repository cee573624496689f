//! What a starting agent says.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;
use crate::admin::MetricsIdentities;
use crate::agent::{Authority, SourceSettings};
use crate::budget::BudgetOptions;
use crate::intercept::KubeletCgroup;

fn starting() -> Arc<Starting> {
    let options = Options {
        source: SourceSettings::Kube,
        node: "node-a".to_owned(),
        pods_cgroup: "/nowhere".into(),
        kubelet: KubeletCgroup::Untrusted,
        pin_dir: "/nowhere".into(),
        run_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        authority: Authority::Embedded,
        certificate_lifetime: None,
        certificates: None,
        chain: None,
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        workers: NonZeroUsize::MIN,
        drain_timeout: Duration::ZERO,
        budget: BudgetOptions::default(),
        metrics_identities: MetricsIdentities::default(),
        metrics_token: None,
    };
    Starting::new(&options, Counter::default())
}

#[test]
fn it_names_the_kinds_that_are_missing_and_why() {
    let starting = starting();
    assert_eq!(starting.ready().unwrap_err().len(), 1);
    let health = KubeHealth::default();
    for kind in ["namespaces", "nodes", "pods"] {
        health.watched(kind, Some("v1"));
    }
    health.failed("pods", "pods is forbidden".to_owned());
    health.listed("nodes");
    starting.hears(Some(health.clone()));
    let status = starting.status();
    assert!(status.starting && !status.ready);
    let missing = status.not_ready.join("\n");
    assert!(missing.contains("read for the first time"), "{missing}");
    assert!(missing.contains("namespaces not listed yet"), "{missing}");
    assert!(
        missing.contains("pods not heard for 0 s: pods is forbidden"),
        "{missing}"
    );
    assert!(!missing.contains("nodes"), "{missing}");
    assert_eq!(starting.ready().unwrap_err(), status.not_ready);
    assert!(starting.knows().unwrap_err().contains("pods is forbidden"));
    assert_eq!(status.config.api.len(), 3);
    let problems = status.config.problems.join("\n");
    assert!(
        problems.contains("no configuration is known yet"),
        "{problems}"
    );
    assert!(problems.contains("pods is forbidden"), "{problems}");
    assert!(!problems.contains("stays in force"), "{problems}");

    health.heard("pods");
    health.listed("pods");
    health.listed("namespaces");
    let missing = starting.ready().unwrap_err();
    assert_eq!(missing.len(), 1, "{missing:?}");
}
