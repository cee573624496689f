//! `mesh-agent cni`: the CNI plugin as a process. `main` asks here first whether this run is
//! the plugin's, before it sets up anything.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::node::cni::{PLUGIN, plugin};

/// Options of `mesh-agent cni`: none. The container runtime says everything by environment
/// variables (`CNI_*`) and standard input.
#[derive(Clone, Copy, Debug, Args)]
pub struct CniArgs {}

/// Whether a process that was started with these arguments is the plugin: container
/// runtimes give none, and call the executable by the plugin's name.
pub fn is_called(mut arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> bool {
    let program = arguments.next();
    let named = program.is_some_and(|program| {
        Path::new(&program)
            .file_name()
            .is_some_and(|name| name == PLUGIN)
    });
    let asked = named || std::env::var_os("CNI_COMMAND").is_some();
    asked && arguments.next().is_none()
}

/// Answers the container runtime, and says how the process is to end.
pub fn run() -> ExitCode {
    let variables = std::env::vars_os();
    let environment: HashMap<_, _> = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    let outcome = plugin::run(&environment, io::stdin());
    // The exit code is the answer that remains when neither stream can be written to.
    let _ = io::stderr().write_all(outcome.stderr.as_bytes());
    match io::stdout().write_all(outcome.stdout.as_bytes()) {
        Ok(()) => ExitCode::from(outcome.code),
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_its_name_without_arguments() {
        assert!(is_called(["/opt/cni/bin/isthmus"].iter()));
        assert!(!is_called(["/opt/cni/bin/isthmus", "status"].iter()));
        assert!(!is_called(["/usr/bin/mesh-agent"].iter()));
    }
}
