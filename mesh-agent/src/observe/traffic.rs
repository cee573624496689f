//! Istio's TCP metrics. A connection resolves its label set once, when it counts as
//! opened; the bytes of open connections are brought in at each scrape.

mod labels;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::Direction;
use super::live::{Details, LiveConnection, Table};
use super::reason::{Reason, ResponseFlag};
use labels::Labels;

/// Label sets that are kept. Beyond it those without connections make room, the one
/// unused the longest first; if all are in use, newcomers share one without names.
const MAX_SERIES: usize = 10_000;

/// The counters of one label set.
#[derive(Debug, Default)]
pub(super) struct Series {
    opened: AtomicU64,
    closed: [AtomicU64; ResponseFlag::ALL.len()],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    last_used: AtomicU64,
}

impl Series {
    /// Adds what `other` counts now.
    fn add(&self, other: &Self) {
        let pairs = [
            (&self.opened, &other.opened),
            (&self.request_bytes, &other.request_bytes),
            (&self.response_bytes, &other.response_bytes),
        ];
        let closed = self.closed.iter().zip(&other.closed);
        for (sum, part) in pairs.into_iter().chain(closed) {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Every label set with its counters, and the table whose bytes are brought in.
#[derive(Debug)]
pub(super) struct Traffic {
    table: Arc<Table>,
    series: Mutex<HashMap<Labels, Arc<Series>>>,
    max_series: usize,
    clock: AtomicU64,
}

impl Traffic {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self::with_limit(table, MAX_SERIES)
    }

    pub(super) fn with_limit(table: Arc<Table>, max_series: usize) -> Self {
        Self {
            table,
            series: Mutex::default(),
            max_series,
            clock: AtomicU64::new(0),
        }
    }

    /// Counts the connection as opened, the first time.
    pub(super) fn opened(&self, connection: &LiveConnection) {
        let mut details = connection.lock();
        if details.series.is_none() {
            let series = self.resolve(Labels::of(connection, &details));
            series.opened.fetch_add(1, Ordering::Relaxed);
            details.series = Some(series);
        }
    }

    /// Counts the connection as closed, and as opened if it never was.
    pub(super) fn closed(&self, connection: &LiveConnection, reason: Option<Reason>) {
        self.opened(connection);
        let mut details = connection.lock();
        settle(connection, &mut details);
        // Without the reference the series may be evicted; the details live on in the log's queue.
        if let Some(series) = details.series.take() {
            let flag = reason.map_or(ResponseFlag::None, Reason::flag);
            series.closed[flag as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resolve(&self, labels: Labels) -> Arc<Series> {
        let mut all = self.lock();
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(series) = all.get(&labels) {
            series.last_used.store(used, Ordering::Relaxed);
            return Arc::clone(series);
        }
        if all.len() >= self.max_series {
            evict(&mut all, self.max_series);
        }
        let labels = if all.len() < self.max_series {
            labels
        } else {
            labels.nameless()
        };
        let series = all.entry(labels).or_default();
        series.last_used.store(used, Ordering::Relaxed);
        Arc::clone(series)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Labels, Arc<Series>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings what the meter has counted since the last time into the series.
fn settle(connection: &LiveConnection, details: &mut Details) {
    let Some(series) = &details.series else {
        return;
    };
    let now = connection.meter().totals();
    let sent = now.sent.saturating_sub(details.accounted.sent);
    let received = now.received.saturating_sub(details.accounted.received);
    // The application is the client outbound and the server inbound.
    let (request, response) = match connection.direction() {
        Direction::Outbound => (sent, received),
        Direction::Inbound => (received, sent),
    };
    series.request_bytes.fetch_add(request, Ordering::Relaxed);
    series.response_bytes.fetch_add(response, Ordering::Relaxed);
    details.accounted = now;
}

/// Drops the quarter of the label sets that were unused the longest, of those that no
/// open connection holds. Their counters start anew if they come back, as after a restart.
fn evict(all: &mut HashMap<Labels, Arc<Series>>, limit: usize) {
    let mut idle: Vec<u64> = all
        .values()
        .filter(|series| Arc::strong_count(series) == 1)
        .map(|series| series.last_used.load(Ordering::Relaxed))
        .collect();
    if idle.is_empty() {
        return;
    }
    let keep_from = (limit / 4).min(idle.len() - 1);
    let (_, &mut threshold, _) = idle.select_nth_unstable(keep_from);
    all.retain(|_, series| {
        Arc::strong_count(series) > 1 || series.last_used.load(Ordering::Relaxed) > threshold
    });
}

/// Writes the four families at each scrape.
#[derive(Debug)]
pub(super) struct TrafficCollector {
    traffic: Arc<Traffic>,
    /// Whether the label sets name workloads; else they are summed up without.
    is_named: bool,
}

impl TrafficCollector {
    pub(super) fn named(traffic: &Arc<Traffic>) -> Self {
        Self {
            traffic: Arc::clone(traffic),
            is_named: true,
        }
    }

    pub(super) fn nameless(traffic: &Arc<Traffic>) -> Self {
        Self {
            traffic: Arc::clone(traffic),
            is_named: false,
        }
    }
}

/// The sums of all label sets that differ in names alone.
fn without_names(all: Vec<(Labels, Arc<Series>)>) -> Vec<(Labels, Arc<Series>)> {
    let mut sums: HashMap<Labels, Arc<Series>> = HashMap::new();
    for (labels, series) in all {
        sums.entry(labels.nameless()).or_default().add(&series);
    }
    sums.into_iter().collect()
}

impl Collector for TrafficCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let traffic = &self.traffic;
        traffic
            .table
            .for_each(|connection| settle(connection, &mut connection.lock()));
        let all: Vec<(Labels, Arc<Series>)> = traffic
            .lock()
            .iter()
            .map(|(labels, series)| (labels.clone(), Arc::clone(series)))
            .collect();
        let all = match self.is_named {
            true => all,
            false => without_names(all),
        };
        let families: [Family; 4] = [
            (
                "istio_tcp_connections_opened",
                "The total number of TCP connections opened",
                |series, flag| (flag == ResponseFlag::None).then_some(&series.opened),
            ),
            (
                "istio_tcp_connections_closed",
                "The total number of TCP connections closed",
                |series, flag| {
                    let closed = &series.closed[flag as usize];
                    let shown = flag == ResponseFlag::None || closed.load(Ordering::Relaxed) > 0;
                    shown.then_some(closed)
                },
            ),
            (
                "istio_tcp_received_bytes",
                "The size of total bytes received during request in case of a TCP connection",
                |series, flag| (flag == ResponseFlag::None).then_some(&series.request_bytes),
            ),
            (
                "istio_tcp_sent_bytes",
                "The size of total bytes sent during response in case of a TCP connection",
                |series, flag| (flag == ResponseFlag::None).then_some(&series.response_bytes),
            ),
        ];
        for (name, help, counter) in families {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &all {
                for flag in ResponseFlag::ALL {
                    if let Some(value) = counter(series, flag) {
                        metric
                            .encode_family(&labels.to_pairs(flag))?
                            .encode_counter::<NoLabelSet, _, u64>(
                                &value.load(Ordering::Relaxed),
                                None,
                            )?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A metric's name, its help, and the counter that a series has for a flag, if any.
type Family = (
    &'static str,
    &'static str,
    fn(&Series, ResponseFlag) -> Option<&AtomicU64>,
);

#[cfg(test)]
mod tests;
