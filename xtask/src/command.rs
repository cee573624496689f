//! Running programs: in a clean environment, with an error that says what went wrong.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program to run. Nothing of the cargo that runs xtask leaks into it: a `RUSTC` or
/// `RUSTUP_TOOLCHAIN` inherited from there would choose the wrong compiler for it.
pub(crate) struct Run {
    command: Command,
    text: String,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        command.current_dir(crate::root()).stdin(Stdio::null());
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(is_cargos_own) {
                command.env_remove(&key);
            }
        }
        command.env("PATH", search_path());
        Self {
            command,
            text: Path::new(program.as_ref())
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.text = format!("{} {}", self.text, argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds the words of `text`.
    pub(crate) fn words(mut self, text: &str) -> Self {
        for word in text.split_whitespace() {
            self = self.arg(word);
        }
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn without_env(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it with its output passed through.
    pub(crate) fn show(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .with_context(|| cannot_start(&self.text))?;
        if !status.success() {
            bail!(
                "`{}` failed ({status}); its output above says why",
                self.text
            );
        }
        Ok(())
    }

    /// Becomes it, so that signals reach it and nobody else. Comes back only when it cannot start.
    pub(crate) fn replace(mut self) -> Result<()> {
        Err(self.command.exec()).with_context(|| cannot_start(&self.text))
    }

    /// Runs it silently, and gives its standard output; a failure carries its last lines.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self
            .command
            .output()
            .with_context(|| cannot_start(&self.text))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let all = text + &String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{}` failed ({}); its last lines:\n{}",
                self.text,
                output.status,
                last_lines(&all)
            );
        }
        Ok(text)
    }

    /// Whether it runs and succeeds.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Runs it, passes each line of its standard output on, and shows it to `each`.
    /// Gives whether it succeeded.
    pub(crate) fn watch(self, each: impl FnMut(&str)) -> Result<bool> {
        self.watching("", each)
    }

    /// [`Self::watch`] for one of several that run at the same time: its lines say whose they are.
    pub(crate) fn watch_as(self, name: &str, each: impl FnMut(&str)) -> Result<bool> {
        self.watching(&format!("{name} | "), each)
    }

    fn watching(mut self, before: &str, mut each: impl FnMut(&str)) -> Result<bool> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| cannot_start(&self.text))?;
        let pipe = child.stdout.take().context("the pipe that was asked for")?;
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            println!("{before}{}", text.trim_end());
            each(text.trim_end());
            line.clear();
        }
        Ok(child.wait()?.success())
    }
}

/// Whether a program is on the path that [`Run`] uses.
pub(crate) fn exists(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    std::env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
}

/// Where the project keeps tools that it built itself.
pub(crate) fn tools() -> PathBuf {
    crate::target().join("tools")
}

/// Own tools first; the folders of administration at the end, where a shell's path lacks them.
fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = tools().join("bin");
    let folders = std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()]);
    std::env::join_paths(folders).unwrap_or(path)
}

/// What cargo, and rustup before it, put into the environment of xtask. Settings of the user's
/// own (`CARGO_HOME`, `CARGO_NET_*`, `CARGO_HTTP_*`, `CARGO_REGISTRIES_*`, `RUSTUP_*`) stay.
fn is_cargos_own(key: &str) -> bool {
    matches!(
        key,
        "CARGO"
            | "RUSTC"
            | "RUSTDOC"
            | "RUSTUP_TOOLCHAIN"
            | "RUST_RECURSION_COUNT"
            | "LD_LIBRARY_PATH"
            | "CARGO_TARGET_DIR"
            | "OUT_DIR"
    ) || [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_CRATE_",
        "CARGO_BIN_",
        "CARGO_PRIMARY_",
        "CARGO_BUILD_",
        "RUSTC_",
    ]
    .iter()
    .any(|prefix| key.starts_with(prefix))
}

fn cannot_start(text: &str) -> String {
    let program = text.split(' ').next().unwrap_or_default();
    format!("`{program}` cannot be started: is it installed?")
}

fn last_lines(text: &str) -> String {
    let mut last = VecDeque::new();
    for line in text.lines() {
        last.push_back(line);
        if last.len() > 20 {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}
