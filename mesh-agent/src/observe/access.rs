//! The access log: one line a connection. Connections hand their record to a thread
//! of its own over a bounded queue, so that no worker formats or waits for a line.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::live::LiveConnection;
use super::reason::Outcome;

/// Records that may wait for the thread; later ones are dropped and counted.
const QUEUE: usize = 8192;

/// The way into the access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Job>,
    dropped: Counter,
}

impl AccessLog {
    /// Starts the thread that writes the lines as `tracing` events of target `access`,
    /// to the subscriber that is current here. It ends when the last clone is dropped.
    /// `dropped` counts the lines that found the queue full.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn spawn(dropped: Counter) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || tracing::dispatcher::with_default(&subscriber, || write_all(&jobs)))?;
        Ok(Self { queue, dropped })
    }

    /// Waits until every record handed over before is written, or `limit` has passed.
    /// Says whether it was. Blocks: not for a worker thread.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, written) = sync_channel(1);
        self.queue.send(Job::Flush(done)).is_ok() && written.recv_timeout(limit).is_ok()
    }

    pub(super) fn write(&self, record: Record) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Job::Line(record))
        {
            self.dropped.inc();
        }
    }
}

#[derive(Debug)]
enum Job {
    Line(Record),
    Flush(SyncSender<()>),
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) connection: Arc<LiveConnection>,
    pub(super) outcome: Outcome,
    pub(super) detail: Option<Arc<str>>,
    pub(super) duration: Duration,
}

fn write_all(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Line(record) => emit(&record),
            // Who asked may have stopped waiting.
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

fn emit(record: &Record) {
    let connection = &record.connection;
    let details = connection.details();
    let totals = connection.meter().totals();
    let (source_identity, destination_identity) = connection.principals(&details);
    let tls = details.security.and_then(super::Security::tls);
    let ruling = details.ruling.as_ref();
    // The level is part of an event's static description, hence one expansion for each.
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: "access",
                parent: None,
                tracing::Level::$level,
                direction = connection.direction().as_str(),
                connection = display(connection.id()),
                pod = display(connection.pod()),
                src = display(connection.source()),
                dst = display(connection.destination()),
                client = details.client.map(display),
                upstream = details.upstream.map(display),
                service = details.service.as_deref(),
                retries = (details.retries > 0).then_some(details.retries),
                source_identity,
                destination_identity,
                security = details.security.map(super::Security::as_str),
                tls_version = tls.map(|(version, _)| version),
                tls_suite = tls.map(|(_, suite)| suite),
                bytes_sent = totals.sent,
                bytes_received = totals.received,
                duration_ms = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
                outcome = record.outcome.as_str(),
                reason = record.outcome.reason().map(|reason| reason.code()),
                policy = ruling.and_then(|it| it.policy()).map(display),
                rule = ruling.and_then(|it| it.rule()),
                detail = record.detail.as_deref(),
                audit = ruling.and_then(|it| it.audit_text()),
                dry_run = ruling.and_then(|it| it.dry_run_text()),
                "connection closed"
            )
        };
    }
    match record.outcome {
        Outcome::Ok => line!(INFO),
        Outcome::Denied(_) | Outcome::Failed(_) | Outcome::Cut(_) => line!(WARN),
    }
}
