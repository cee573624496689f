//! What the agent tells of itself: the live table of connections, the access log and
//! the metrics. The proxy opens a [`Connection`] for each one that it accepts; the admin
//! interface reads the rest.

mod access;
mod account;
mod connection;
mod flows;
mod info;
mod labels;
pub mod limiter;
mod live;
pub mod logging;
mod meter;
pub mod metrics;
mod reason;
mod recent;
mod ruling;
mod traffic;

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Notify;

pub use access::AccessLog;
pub use account::Account;
pub use connection::{Connection, Opening};
pub use flows::{Flow, Reporter};
pub use info::ConnectionInfo;
pub use labels::{Direction, PodLabels, Security};
pub use live::{ConnectionId, LiveConnection};
pub use meter::{Meter, Totals};
pub use metrics::{Registry, Sample};
pub use reason::{Outcome, Reason, ResponseFlag};
pub use ruling::Ruling;

use access::Record;
use flows::Flows;
use live::Table;
use recent::Recent;
use traffic::{Traffic, TrafficCollector};

use crate::policy::Would;

/// The agent's view of its own traffic. One, shared by all workers.
#[derive(Debug)]
pub struct Observer {
    table: Arc<Table>,
    traffic: Arc<Traffic>,
    access: AccessLog,
    refused: Family<EndLabels, Counter>,
    broken: Family<EndLabels, Counter>,
    retried: Family<RetryLabels, Counter>,
    audited: Family<DirectionLabels, Counter>,
    on_trial: Family<TrialLabels, Counter>,
    recent: Recent,
    flows: Flows,
    one_ended: Notify,
}

impl Observer {
    /// An observer whose metrics are in `registry` and whose lines go to `access`.
    pub fn new(registry: &Registry, access: AccessLog) -> Arc<Self> {
        let table = Arc::new(Table::new());
        let traffic = Arc::new(Traffic::new(Arc::clone(&table)));
        registry.register_named(
            TrafficCollector::named(&traffic),
            TrafficCollector::nameless(&traffic),
        );
        let refused = Family::default();
        registry.register(
            "isthmus_connections_refused",
            "Connections that were denied, or failed before any byte was carried",
            refused.clone(),
        );
        let broken = Family::default();
        registry.register(
            "isthmus_connections_broken",
            "Connections that failed or were cut after they had been established",
            broken.clone(),
        );
        let retried = Family::default();
        registry.register(
            "isthmus_endpoint_retries",
            "Endpoints of services that could not be reached, so that another was tried",
            retried.clone(),
        );
        let audited = Family::default();
        registry.register(
            "isthmus_connections_audited",
            "Connections that an AUDIT policy matched",
            audited.clone(),
        );
        let on_trial = Family::default();
        registry.register(
            "isthmus_connections_dry_run",
            "Connections that a policy under dry run would have refused or let in, were it enforced",
            on_trial.clone(),
        );
        Arc::new(Self {
            table,
            traffic,
            access,
            refused,
            broken,
            retried,
            audited,
            on_trial,
            recent: Recent::new(),
            flows: Flows::new(),
            one_ended: Notify::new(),
        })
    }

    /// Opens the account of a connection that was just accepted.
    pub fn open(self: &Arc<Self>, opening: Opening) -> Connection {
        let Opening {
            direction,
            pod,
            source,
            destination,
        } = opening;
        let live = self.table.open(direction, pod, source, destination);
        Connection::new(live, Arc::clone(self))
    }

    /// The connections that are open now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let mut all = Vec::new();
        self.table
            .for_each(|connection| all.push(ConnectionInfo::from(&**connection)));
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// A connection that is open, or that ended lately.
    pub fn find(&self, id: ConnectionId) -> Option<Account> {
        let open = self.table.get(id).map(|it| Account::open(&it));
        open.or_else(|| self.recent.get(id).map(|it| Account::ended(&it)))
    }

    /// Who lately talked to whom, in the order of the destinations.
    pub fn flows(&self) -> Vec<Flow> {
        self.flows.list()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.table.len()
    }

    /// Completes once no connection is open.
    pub async fn idle(&self) {
        loop {
            let ended = self.one_ended.notified();
            let mut ended = std::pin::pin!(ended);
            // Enlist before looking, or an end between the two would go unnoticed.
            ended.as_mut().enable();
            if self.open_connections() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Cuts every open connection that `which` picks, and says how many. For changes of
    /// policy, released pods and shutdown. One opened meanwhile may be missed: put the new
    /// state in force before cutting by it.
    pub fn cut(&self, reason: Reason, which: impl Fn(&LiveConnection) -> bool) -> usize {
        let mut cut = 0;
        self.table.for_each(|connection| {
            if which(connection) && connection.cut(reason) {
                cut += 1;
            }
        });
        cut
    }

    /// Cuts every open connection for which `judge` has a reason, and says how many;
    /// see [`Self::cut`].
    pub fn cut_judged(&self, mut judge: impl FnMut(&LiveConnection) -> Option<Reason>) -> usize {
        let mut cut = 0;
        self.table.for_each(|connection| {
            if let Some(reason) = judge(connection)
                && connection.cut(reason)
            {
                cut += 1;
            }
        });
        cut
    }

    /// Cuts one connection. Says whether it was open and not yet cut.
    pub fn cut_one(&self, id: ConnectionId, reason: Reason) -> bool {
        self.table
            .get(id)
            .is_some_and(|connection| connection.cut(reason))
    }

    /// The access log, to flush it before the agent exits.
    pub fn access_log(&self) -> &AccessLog {
        &self.access
    }

    fn retried(&self, reason: Reason) {
        let labels = RetryLabels {
            reason: reason.code(),
        };
        self.retried.get_or_create(&labels).inc();
    }

    fn ended(&self, record: &Record, established: bool) {
        let (connection, outcome) = (&*record.connection, record.outcome);
        self.traffic.closed(connection, outcome.reason());
        let details = connection.close();
        self.flows.record(connection, &details, outcome);
        self.count_ruling(connection.direction(), details.ruling.as_ref());
        // Kept before it leaves the table, so that it is in one of the two at every moment.
        self.recent.keep(record.clone());
        self.table.remove(connection.id());
        self.one_ended.notify_waiters();
        let Some(reason) = outcome.reason() else {
            return;
        };
        let refused = !established || matches!(outcome, Outcome::Denied(_));
        let family = if refused { &self.refused } else { &self.broken };
        let labels = EndLabels {
            direction: connection.direction().as_str(),
            reason: reason.code(),
        };
        family.get_or_create(&labels).inc();
    }

    fn count_ruling(&self, direction: Direction, ruling: Option<&Ruling>) {
        let Some(ruling) = ruling else {
            return;
        };
        let direction = direction.as_str();
        if !ruling.audited.is_empty() {
            let labels = DirectionLabels { direction };
            self.audited.get_or_create(&labels).inc();
        }
        for would in [Would::Allow, Would::Deny] {
            if ruling.would(would) {
                let would = would.as_str();
                let labels = TrialLabels { direction, would };
                self.on_trial.get_or_create(&labels).inc();
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrialLabels {
    direction: &'static str,
    would: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    reason: &'static str,
}

#[cfg(test)]
mod tests;
