//! Drops and refused calls of the kernel programs, in the agent's log. Connections that a
//! device's program or the connect hook refused have a line in the access log too, since no
//! worker of the proxy ever sees them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::counters::Counter;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::fleet::Fleet;
use crate::intercept::{Interceptor, KernelEvent, KernelEvents, NetnsCookie};
use crate::observe::limiter::{LineLimiter, Suppressed, rfc3339};
use crate::observe::{Direction, Observer, Opening, Outcome, Reason};

/// Connections whose line is remembered, so that a retransmission has no other one.
const REMEMBERED: usize = 512;
/// How long one is remembered: longer than the gaps between retransmissions (RFC 6298).
const REMEMBER: Duration = Duration::from_secs(120);
/// How often the ends of the log's windows are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Logs the kernel's events until the returned set is dropped.
pub(super) fn watch(
    interceptor: &Arc<Interceptor>,
    fleet: &Arc<Fleet>,
    observer: &Arc<Observer>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Some(events) = interceptor.events() else {
        return tasks;
    };
    match KernelEvents::new(events) {
        Ok(events) => {
            let refusals = Refusals {
                fleet: Arc::clone(fleet),
                observer: Arc::clone(observer),
                seen: Seen::default(),
            };
            tasks.spawn(log_all(events, refusals));
        }
        Err(error) => tracing::error!(%error, "the kernel's events cannot be read"),
    }
    tasks
}

async fn log_all(mut events: KernelEvents, mut refusals: Refusals) {
    // By the cgroup, which every event has.
    let lines = LineLimiter::<u64>::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(event) => {
                    let (source, kind) = (event.remote.ip(), event.kind.name());
                    if lines.admit(&event.cgroup_id, source, kind, Instant::now()) {
                        log(&event, &refusals.fleet);
                    }
                    refusals.record(&event);
                }
                Err(error) => return tracing::error!(%error, "the kernel's events ended"),
            },
            _ = tick.tick(), if lines.is_active() => {
                lines.ended(Instant::now()).iter().for_each(summarize);
            }
        }
    }
}

/// One line for events that have none of their own.
fn summarize(suppressed: &Suppressed<u64>) {
    let remote = suppressed.key.source.map(|source| source.to_string());
    tracing::warn!(target: "kernel", kind = suppressed.key.reason, cgroup = suppressed.pod,
        remote, count = suppressed.count, first = rfc3339(suppressed.first),
        last = rfc3339(suppressed.last), "the kernel programs refused or dropped more");
}

fn log(event: &KernelEvent, fleet: &Fleet) {
    let KernelEvent {
        kind,
        netns,
        cgroup_id,
        local,
        remote,
        ..
    } = event;
    let local = local.map(|local| local.to_string());
    let pod = fleet.orphan_at(*netns);
    let reason = pod.as_ref().map(|_| Reason::PodDeleted.code());
    tracing::warn!(target: "kernel", kind = kind.name(), netns = netns.0, cgroup = cgroup_id,
        local, %remote, pod, reason, "the kernel programs refused or dropped");
}

/// Writes the access-log lines of connections that the kernel programs refused.
struct Refusals {
    fleet: Arc<Fleet>,
    observer: Arc<Observer>,
    seen: Seen,
}

impl Refusals {
    fn record(&mut self, event: &KernelEvent) {
        let Some((direction, reason)) = refusal(event.kind) else {
            return;
        };
        let local = event.local.unwrap_or_else(|| unspecified(event.remote));
        // Each connect() that was refused is one of its own; it has no port yet.
        let new = event.local.is_none()
            || self
                .seen
                .is_new((event.netns, reason, local, event.remote), Instant::now());
        let pods = self.fleet.pods();
        let pod = pods
            .iter()
            .find(|(_, pod)| pod.netns().cookie() == event.netns);
        let Some((_, pod)) = pod.filter(|_| new) else {
            return;
        };
        let (source, destination) = match direction {
            Direction::Outbound => (local, event.remote),
            Direction::Inbound => (event.remote, local),
        };
        let connection = self.observer.open(Opening {
            direction,
            pod: pod.labels(),
            source,
            destination,
        });
        connection.finish_with(Outcome::Denied(reason), detail(event.kind));
    }
}

/// Which refusals of the kernel programs are whose, and why.
fn refusal(kind: Counter) -> Option<(Direction, Reason)> {
    Some(match kind {
        Counter::DeviceEgressForwardedStrict => (Direction::Outbound, Reason::ForwardedRefused),
        Counter::DeviceIngressForwardedStrict => (Direction::Inbound, Reason::ForwardedRefused),
        Counter::DeviceEgressNewConnection
        | Counter::DeviceEgressStrict
        | Counter::DeviceEgressUnreadable => (Direction::Outbound, Reason::NotCaptured),
        Counter::DeviceIngressLocalAddress => (Direction::Inbound, Reason::LocalAddress),
        Counter::RefusedInnerNamespace => (Direction::Outbound, Reason::InnerNamespace),
        _ => return None,
    })
}

fn detail(kind: Counter) -> &'static str {
    match kind {
        Counter::DeviceEgressForwardedStrict => {
            "it left by a device of the pod and no socket of the pod had sent it"
        }
        Counter::DeviceIngressForwardedStrict => {
            "it arrived at a device of the pod, for an address behind the pod"
        }
        Counter::DeviceEgressNewConnection => {
            "the socket that opened it is not the agent's, and it was not redirected: it was made \
             outside the pod's cgroup, it sends raw frames, or the programs on the pods' cgroup \
             were missing"
        }
        Counter::DeviceEgressStrict => {
            "data from a socket that is not the agent's, of a pod that is STRICT"
        }
        Counter::DeviceEgressUnreadable => {
            "a TCP packet without a readable header, from a socket that is not the agent's"
        }
        Counter::DeviceIngressLocalAddress => {
            "source and destination are addresses of one host, and it arrived from outside"
        }
        Counter::RefusedInnerNamespace => {
            "the process is in the pod's cgroup and in a network namespace of its own, as a \
             container in the pod: run it in the pod's network namespace (`--network host`)"
        }
        _ => "refused by the kernel programs",
    }
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match like {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

type Key = (NetnsCookie, Reason, SocketAddr, SocketAddr);

/// The connections that have a line already, the latest last.
#[derive(Default)]
struct Seen(VecDeque<(Key, Instant)>);

impl Seen {
    /// Whether the connection has no line yet; it is taken to have one from now on.
    fn is_new(&mut self, key: Key, now: Instant) -> bool {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= REMEMBER;
        while self.0.front().is_some_and(|(_, at)| old(at)) || self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        if self.0.iter().any(|(known, _)| *known == key) {
            return false;
        }
        self.0.push_back((key, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        let local = SocketAddr::from(([10, 0, 0, 1], port));
        let remote = SocketAddr::from(([10, 0, 0, 2], 80));
        (NetnsCookie(1), Reason::NotCaptured, local, remote)
    }

    #[test]
    fn seen_knows_a_connection_until_it_is_forgotten() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        assert!(seen.is_new(key(1), start));
        assert!(!seen.is_new(key(1), start + Duration::from_secs(60)));
        assert!(seen.is_new(key(2), start));
        assert!(seen.is_new(key(1), start + REMEMBER));
    }

    #[test]
    fn seen_is_bounded() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        for port in 0..2000 {
            assert!(seen.is_new(key(port), start));
        }
        assert_eq!(seen.0.len(), REMEMBERED);
    }

    #[test]
    fn refusal_names_a_reason_for_every_drop_of_a_device() {
        for counter in Counter::ALL {
            let name = counter.name();
            let passes = name.ends_with("_forwarded");
            if name.starts_with("device_") && !passes {
                assert!(refusal(counter).is_some(), "{name}");
                assert_ne!(detail(counter), "refused by the kernel programs", "{name}");
            }
        }
    }
}
