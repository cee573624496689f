//! What is measured, an agent or the authority: its log, line by line with the time, and what
//! `/proc` says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use isthmus_tests::process::own_program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::bed::{Bed, NODE};

/// Long enough for any line that comes at all.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Measured {
    child: Child,
    lines: Receiver<Line>,
    pub(crate) started: Instant,
}

/// A line of the log, and when it came.
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) fields: Value,
}

impl Line {
    pub(crate) fn says(&self, message: &str) -> bool {
        self.fields["message"] == message
    }
}

impl Measured {
    pub(crate) fn agent(bed: &Bed, kubeconfig: &str) -> Result<Self> {
        let mut command = Command::new(own_program("mesh-agent")?);
        command.args(["run", "--kube", "--node", NODE, "--log-format", "json"]);
        for (option, value) in [
            ("--pods-cgroup", bed.pods().to_owned()),
            ("--pin-dir", bed.folder("bpf").join("isthmus")),
            ("--run-dir", bed.folder("run")),
            ("--state-dir", bed.folder("state")),
            // No kubelet runs here to be found.
            ("--kubelet-cgroup", bed.agent.path().to_owned()),
        ] {
            command.arg(option).arg(value);
        }
        Self::start(command, bed, kubeconfig)
    }

    /// The same authority each time.
    pub(crate) fn authority(bed: &Bed, kubeconfig: &str) -> Result<Self> {
        let mut command = Command::new(own_program("mesh-agent")?);
        command.args(["ca", "serve", "--kube", "--init", "--log-format", "json"]);
        command.args(["--trust-domain", "cluster.local", "--name", "localhost"]);
        command.args(["--listen", "127.0.0.1:0", "--namespace", "isthmus-system"]);
        command.arg("--dir").arg(bed.folder("authority"));
        Self::start(command, bed, kubeconfig)
    }

    fn start(mut command: Command, bed: &Bed, kubeconfig: &str) -> Result<Self> {
        let file = bed.folder("kubeconfig");
        fs::write(&file, kubeconfig).context("writing the kubeconfig")?;
        let started = Instant::now();
        let mut child = command
            .env("KUBECONFIG", &file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting mesh-agent")?;
        let log = child.stderr.take().context("the pipe that was asked for")?;
        let (tell, lines) = channel();
        let show = std::env::var_os("SCALE_SHOW_LOG").is_some();
        thread::spawn(move || {
            for text in BufReader::new(log).lines().map_while(Result::ok) {
                let at = Instant::now();
                if show {
                    eprintln!("{text}");
                }
                let fields = serde_json::from_str(&text).unwrap_or(Value::String(text));
                if tell.send(Line { at, fields }).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            started,
        })
    }

    /// The next line that is `wanted`.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let until = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        loop {
            match self.lines.recv_timeout(until - Instant::now()) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(line) => last = line.fields,
                Err(error) => bail!("waited in vain until {what} ({error}); the last line: {last}"),
            }
        }
    }

    /// The lines that came since.
    pub(crate) fn drain(&self) -> Vec<Line> {
        self.lines.try_iter().collect()
    }

    /// Megabytes of memory: a field of `/proc/PID/status`.
    pub(crate) fn memory(&self, field: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        let kilobytes: f64 = number.with_context(|| format!("no {field}"))?.parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, after) = text.rsplit_once(')').context("no name")?;
        // utime and stime, the 14th and 15th (proc_pid_stat(5)), in hundredths.
        let ticks = after.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        Ok(ticks / 100.0)
    }

    /// Ends it, and waits for that.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
