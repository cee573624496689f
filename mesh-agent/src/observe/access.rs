//! The access log: one line a connection. Connections hand their record to a thread
//! of its own over a bounded queue, so that no worker formats or waits for a line. Refusals
//! beyond a rate are counted, and have one line together ([`super::limiter`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::labels::PodLabels;
use super::limiter::{LineLimiter, Suppressed, WINDOW, rfc3339};
use super::live::LiveConnection;
use super::reason::Outcome;

/// Records that may wait for the thread; later ones are dropped and counted.
const QUEUE: usize = 8192;

/// The part of the queue that lines of established connections may fill: a busy pod's must not
/// crowd out another's refusals.
const ORDINARY: usize = QUEUE / 4 * 3;

/// The way into the access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Job>,
    /// Records in the queue.
    waiting: Arc<AtomicUsize>,
    refusals: Arc<Refusals>,
    dropped: Counter,
}

type Refusals = LineLimiter<Arc<PodLabels>>;

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
        let writer = Writer {
            jobs,
            waiting: Arc::default(),
            refusals: Arc::default(),
        };
        let (waiting, refusals) = (Arc::clone(&writer.waiting), Arc::clone(&writer.refusals));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || tracing::dispatcher::with_default(&subscriber, || writer.write_all()))?;
        Ok(Self {
            queue,
            waiting,
            refusals,
            dropped,
        })
    }

    /// Waits until every record handed over before is written, or `limit` has passed.
    /// Says whether it was. Blocks: not for a worker thread.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, written) = sync_channel(1);
        self.queue.send(Job::Flush(done)).is_ok() && written.recv_timeout(limit).is_ok()
    }

    /// Hands a record over. Of one that `is_refusal`, a connection that never stood, a line is
    /// written only within the limits of its pod and source.
    pub(super) fn write(&self, record: Record, is_refusal: bool) {
        let connection = &record.connection;
        if is_refusal && let Some(reason) = record.outcome.reason() {
            let (pod, source) = (connection.pod(), connection.source().ip());
            let now = Instant::now();
            if !self.refusals.admit(pod, source, reason.code(), now) {
                return;
            }
        } else if self.waiting.load(Ordering::Relaxed) >= ORDINARY {
            self.dropped.inc();
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Job::Line(record))
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
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

/// How often the ends of windows are looked for, while there are any.
const TICK: Duration = Duration::from_secs(1);

/// The thread that writes.
struct Writer {
    jobs: Receiver<Job>,
    waiting: Arc<AtomicUsize>,
    refusals: Arc<Refusals>,
}

impl Writer {
    fn write_all(&self) {
        let mut looked = Instant::now();
        loop {
            // A window begins with a line, so that this thread wakes when there is one.
            let next = match self.refusals.is_active() {
                true => self.jobs.recv_timeout(TICK),
                false => self.jobs.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(Job::Line(record)) => {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    emit(&record);
                }
                Ok(Job::Flush(done)) => {
                    self.refusals.end_all().iter().for_each(summarize);
                    // The caller may have stopped waiting.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return self.refusals.end_all().iter().for_each(summarize);
                }
            }
            let now = Instant::now();
            if now - looked >= TICK {
                looked = now;
                self.refusals.ended(now).iter().for_each(summarize);
            }
        }
    }
}

/// One line for refusals that have none of their own.
fn summarize(suppressed: &Suppressed<Arc<PodLabels>>) {
    tracing::warn!(
        target: "access",
        parent: None,
        pod = display(&suppressed.pod),
        src = suppressed.key.source.map(display),
        outcome = "refused",
        reason = suppressed.key.reason,
        count = suppressed.count,
        first = rfc3339(suppressed.first),
        last = rfc3339(suppressed.last),
        window_s = WINDOW.as_secs(),
        "further connections refused"
    );
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
