//! The agent's log on standard error: structured lines that never make the data plane
//! wait. `main` installs it before anything else runs.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::metrics::Registry;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line, its fields at the top level.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Why the log could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is no filter.
    #[error("RUST_LOG is not a log filter: {0}; an example is info,mesh_agent=debug")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// No thread.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
    /// The process has a log already.
    #[error("a log is installed already")]
    Installed,
}

/// Lines that may wait to be written; later ones are dropped and counted. With lines of
/// half a kilobyte this is four megabytes, a second or so of a refused flood.
const QUEUE: usize = 8192;

/// Installs the log for the whole process: standard error, filtered by `RUST_LOG`
/// (default `info`).
///
/// # Errors
/// See [`LogError`].
pub fn install(format: Format) -> Result<LogQueue, LogError> {
    let filter = match std::env::var_os(EnvFilter::DEFAULT_ENV) {
        Some(_) => EnvFilter::try_from_default_env()?,
        None => EnvFilter::new("info"),
    };
    let queue = LogQueue::spawn(io::stderr(), QUEUE)?;
    let subscriber = subscriber(format, filter, queue.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
    Ok(queue)
}

/// A subscriber that writes lines of `format` to `writer`.
pub(super) fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(writer);
    match format {
        Format::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
        Format::Text => Box::new(builder.finish()),
    }
}

/// The bounded queue in front of the log. Clones share it.
#[derive(Clone, Debug)]
pub struct LogQueue {
    lines: SyncSender<Item>,
    dropped: Counter,
}

impl LogQueue {
    pub(super) fn spawn(sink: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let (lines, queue) = sync_channel(capacity);
        let dropped = Counter::default();
        let lost = dropped.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&queue, sink, &lost))?;
        Ok(Self { lines, dropped })
    }

    /// Puts `isthmus_log_lines_dropped` into the registry.
    pub fn register(&self, registry: &Registry) {
        registry.register(
            "isthmus_log_lines_dropped",
            "Log lines dropped because standard error was not read fast enough",
            self.dropped.clone(),
        );
    }

    /// The counter of dropped lines, to which the access log adds its own.
    pub fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    /// Waits until every line handed over before is written, or `limit` has passed. Says
    /// whether it was. Blocks: for the end of `main`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut marker = Item::Flush(done);
        // The channel has no send with a deadline, and a full queue may stay full for ever.
        while let Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) =
            self.lines.try_send(marker)
        {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
            marker = back;
        }
        written
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
    }
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Bytes that are gathered before they are written.
const BATCH: usize = 64 << 10;

fn write_all(queue: &Receiver<Item>, mut sink: impl Write, lost: &Counter) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = 0;
    let mut write = |batch: &mut Vec<u8>, lines: &mut u64| {
        // There is nobody left to tell but the counter.
        if sink.write_all(batch).and_then(|()| sink.flush()).is_err() {
            lost.inc_by(*lines);
        }
        batch.clear();
        *lines = 0;
    };
    while let Ok(first) = queue.recv() {
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Item::Line(line)) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                    if batch.len() >= BATCH {
                        write(&mut batch, &mut lines);
                    }
                }
                Ok(Item::Flush(done)) => {
                    write(&mut batch, &mut lines);
                    // Who asked may have stopped waiting.
                    let _ = done.send(());
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            next = queue.try_recv();
        }
        write(&mut batch, &mut lines);
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

/// Takes one formatted line, which the formatter writes whole.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a LogQueue);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.lines.try_send(Item::Line(line.to_vec())).is_err() {
            self.0.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
