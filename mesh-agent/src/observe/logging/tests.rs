//! The queue in front of the log, with sinks that block, fail or keep what they get.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, mpsc};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub(in crate::observe) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub(in crate::observe) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says when it is written to, then blocks until told to go on.
struct Gate {
    entered: Sender<()>,
    go: Receiver<()>,
    kept: Kept,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.go.recv();
        self.kept.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stalled_sink_drops_and_counts_and_never_blocks_the_writer() {
    let (entered, is_in) = mpsc::channel();
    let (open, go) = mpsc::channel();
    let kept = Kept::default();
    let queue = LogQueue::spawn(
        Gate {
            entered,
            go,
            kept: kept.clone(),
        },
        4,
    )
    .unwrap();

    // The first line is in the sink's hands; four more fit; the other five do not.
    queue.make_writer().write_all(b"line 0\n").unwrap();
    is_in.recv_timeout(LIMIT).unwrap();
    for line in 1..10 {
        queue
            .make_writer()
            .write_all(format!("line {line}\n").as_bytes())
            .unwrap();
    }
    assert_eq!(queue.dropped().get(), 5);

    drop(open);
    // Room for the marker appears once the sink has gone on.
    is_in.recv_timeout(LIMIT).unwrap();
    assert!(queue.flush(LIMIT));
    let written = kept.text();
    assert_eq!(written, "line 0\nline 1\nline 2\nline 3\nline 4\n");
}

#[test]
fn lines_that_a_broken_sink_loses_are_counted() {
    let queue = LogQueue::spawn(Broken, 16).unwrap();
    for _ in 0..3 {
        queue.make_writer().write_all(b"lost\n").unwrap();
    }
    assert!(queue.flush(LIMIT));
    assert_eq!(queue.dropped().get(), 3);
}

#[test]
fn a_json_line_has_its_fields_at_the_top_level() {
    let kept = Kept::default();
    let queue = LogQueue::spawn(kept.clone(), 16).unwrap();
    let subscriber = subscriber(Format::Json, EnvFilter::new("info"), queue.clone());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(target: "access", pod = "shop/web", bytes_sent = 7_u64, "connection closed");
        tracing::debug!("not shown");
    });
    assert!(queue.flush(LIMIT));
    let written = kept.text();
    assert_eq!(written.lines().count(), 1, "{written}");
    let line: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(line["target"], "access");
    assert_eq!(line["pod"], "shop/web");
    assert_eq!(line["bytes_sent"], 7);
    assert_eq!(line["level"], "INFO");
    assert!(line["timestamp"].is_string());
}
