//! Keeps the CNI plugin in the container runtime's configuration, as the last of the plugins
//! that wire a pod, and takes it out again. The agent keeps ([`Keeper`]), `uninstall` removes
//! ([`remove`]); nothing is removed when an agent ends, or pods would start ungated while it
//! is restarted.
//!
//! The runtime uses the first file of the folder in lexical order. A list of plugins
//! (`.conflist`) is edited in place, textually, so that all else in it stays as it was, byte
//! for byte. A single plugin (`.conf`, `.json`) cannot hold a second: it is left alone, and
//! [`WRAPPER`], which sorts before it, chains a copy of it with ours.

mod files;
mod keeper;
mod text;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cni::PLUGIN;
use crate::model::{Problem, Severity};

pub use keeper::Keeper;

/// The list that is ours alone, for a runtime that is configured with a single plugin.
pub const WRAPPER: &str = "00-isthmus.conflist";

/// Where the container runtime looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// For network configurations; `/etc/cni/net.d` almost everywhere.
    pub conf_dir: PathBuf,
    /// For plugins; `/opt/cni/bin` almost everywhere.
    pub bin_dir: PathBuf,
}

/// What the plugin is told by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The agent's socket, as the node sees it.
    pub socket: PathBuf,
    /// Whether pods start outside the mesh while the agent is away, instead of not at all.
    pub fail_open: bool,
    /// Namespaces whose pods start without asking; `None` for the plugin's own choice.
    pub exclude_namespaces: Option<Vec<String>>,
}

/// Why the plugin could not be put in place, or removed.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Settings {
    /// The plugin's entry in a list.
    fn entry(&self) -> Value {
        let mut entry = json!({"type": PLUGIN, "socket": self.socket});
        if self.fail_open {
            entry["failOpen"] = json!(true);
        }
        if let Some(namespaces) = &self.exclude_namespaces {
            entry["excludeNamespaces"] = json!(namespaces);
        }
        entry
    }
}

/// What one look at the folder found, and did.
#[derive(Debug, Default)]
struct Looked {
    /// The file that the runtime uses, with the plugin in it.
    file: Option<PathBuf>,
    /// Whether something had to be written.
    wrote: bool,
    problems: Vec<Problem>,
}

/// Puts the plugin into the file that the runtime uses, where it is missing or says
/// otherwise. Blocks.
fn put(conf_dir: &Path, settings: &Settings) -> Result<Looked, ChainError> {
    let mut looked = Looked::default();
    let entry = settings.entry();
    let wrapper = conf_dir.join(WRAPPER);
    for path in files::configurations(conf_dir)? {
        if path == wrapper {
            continue;
        }
        let is_list = path
            .extension()
            .is_some_and(|extension| extension == "conflist");
        let text = match files::read(&path) {
            Ok(text) => text,
            Err(error) => {
                looked.problems.push(wrong(&path, error.to_string()));
                continue;
            }
        };
        let wanted = if is_list {
            text::add(&text, &entry)
        } else {
            text::wrap(&text, &entry).map(Some)
        };
        // A runtime may pass over what it cannot read and use the next: so do we.
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                looked.problems.push(wrong(&path, error.to_string()));
                continue;
            }
        };
        if is_list {
            if let Some(wanted) = wanted {
                files::replace(&path, &wanted, &path)?;
                looked.wrote = true;
            }
            files::remove(&wrapper)?;
            looked.file = Some(path);
        } else if wrapper < path {
            if wanted != files::read(&wrapper).ok() {
                files::replace(&wrapper, &wanted.unwrap_or_default(), &path)?;
                looked.wrote = true;
            }
            looked.file = Some(wrapper);
        } else {
            let message = format!(
                "is a single plugin and sorts before {WRAPPER}, so pods start without the agent"
            );
            let cure = "rename it, so that its name begins with 10- or more";
            looked.problems.push(problem(&path, message, cure));
        }
        return Ok(looked);
    }
    // What it wrapped is gone.
    files::remove(&wrapper)?;
    looked.problems.push(problem(
        conf_dir,
        "no network is configured here yet, so the CNI plugin waits".to_owned(),
        "install the cluster's network, or name its folder with --cni-conf-dir",
    ));
    Ok(looked)
}

/// Takes the plugin out of every configuration in the folder, then removes its executable.
/// A file that nobody else has changed is what it was before, to the byte. Blocks. Returns
/// what was changed or removed; nothing, when there was nothing of ours.
///
/// # Errors
/// With the first file that cannot be written; the executable is then still there, so that
/// the configuration that names it goes on working.
pub fn remove(place: &Place) -> Result<Vec<PathBuf>, ChainError> {
    let mut changed = Vec::new();
    for path in files::configurations(&place.conf_dir)? {
        if path.file_name().is_some_and(|name| name == WRAPPER) {
            files::remove(&path)?;
            changed.push(path);
            continue;
        }
        // What cannot be read holds nothing of ours: we would not have written it.
        let without = files::read(&path)
            .ok()
            .and_then(|text| text::take_out(&text).ok()?);
        if let Some(without) = without {
            files::replace(&path, &without, &path)?;
            changed.push(path);
        }
    }
    let executable = place.bin_dir.join(PLUGIN);
    if files::remove(&executable)? {
        changed.push(executable);
    }
    Ok(changed)
}

fn wrong(path: &Path, message: String) -> Problem {
    let cure = "correct or remove it; it is left as it is";
    problem(path, message, cure)
}

fn problem(path: &Path, message: String, cure: &str) -> Problem {
    Problem {
        file: path.to_owned(),
        object: None,
        field: "plugins".to_owned(),
        message,
        cure: cure.to_owned(),
        severity: Severity::Error,
    }
}

#[cfg(test)]
mod tests;
