//! Node tokens: with one a node's agent proves to the authority which node it is. The
//! file [`FILE`] in the CA directory holds the SHA-256 of each, never the token.
//! `mesh-agent ca token` writes it through [`TokenFile`]; the server reads it through
//! [`TokenReader`].
//!
//! A token is 32 random bytes, so its plain SHA-256 gives nothing away, and looking a
//! hash up takes no time from which a token could be guessed.

mod file;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ca::CaError;
use crate::identity::{Clock, SystemClock};
use crate::tls::fill_random;
use file::Stamp;

/// The file's name in the CA directory.
pub const FILE: &str = "node-tokens.json";

/// What every token begins with, so that one that leaked is recognised by eye and by
/// scanners for secrets.
const PREFIX: &str = "isthmus-node-";

/// The tokens of a CA directory, for those who change them.
pub struct TokenFile {
    path: PathBuf,
}

/// A token as the file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Tells the token from others of its node: the first 8 digits of its hash.
    pub id: String,
    /// The node that it proves.
    pub node: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// SHA-256 of the token's text, 64 hex digits.
    sha256: String,
}

/// A token that was just made. Its text exists here and nowhere else.
pub struct NewToken {
    /// As in [`Entry::id`].
    pub id: String,
    /// What the node's agent sends.
    pub text: Zeroizing<String>,
}

/// Which of the tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of this node.
    Node(String),
    /// The one with this id.
    Id(String),
}

/// Why tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] CaError),
    /// Others could write the file, and so make themselves any node.
    #[error(
        "{path} can be written by others (mode {mode:04o}, owner {owner}): run chmod 600 and chown it to the user of this process"
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// It is not what `ca token` writes.
    #[error(
        "{path} is not a file of node tokens: {source}; restore it, or remove it and make the tokens again"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Such a node cannot be.
    #[error(
        "{0:?} is not a node's name: give 1 to 253 lower-case letters, digits, '-' or '.', as in the pods' spec.nodeName"
    )]
    Node(String),
    /// Nothing to revoke.
    #[error("no token {0} in {1}: `mesh-agent ca token list` shows those there are")]
    NoSuchToken(String, PathBuf),
    /// The system has no randomness.
    #[error("the system gives no random bytes, so no token can be made")]
    NoRandomness,
}

impl TokenFile {
    /// The tokens of the CA directory `dir`, which must exist.
    pub fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(FILE),
        }
    }

    /// Makes a token for `node` and keeps its hash, on disk when this returns.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn create(&self, node: &str) -> Result<NewToken, TokenError> {
        if !is_node_name(node) {
            return Err(TokenError::Node(node.to_owned()));
        }
        let mut secret = Zeroizing::new([0; 32]);
        fill_random(&mut *secret).map_err(|_| TokenError::NoRandomness)?;
        let text = Zeroizing::new(format!("{PREFIX}{}", hex(&*secret).as_str()));
        let sha256 = digest(&text);
        let id = sha256[..8].to_owned();
        let entry = Entry {
            id: id.clone(),
            node: node.to_owned(),
            created: crate::identity::display_time(SystemClock.now()),
            sha256,
        };
        self.change(|entries| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(NewToken { id, text })
    }

    /// All tokens, by node and age.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn list(&self) -> Result<Vec<Entry>, TokenError> {
        let mut entries = file::read(&self.path)?.entries;
        entries.sort_by(|a, b| (&a.node, &a.created).cmp(&(&b.node, &b.created)));
        Ok(entries)
    }

    /// Forgets tokens, and says how many. A running server refuses them from then on.
    ///
    /// # Errors
    /// See [`TokenError`]; when there is none to forget, too.
    pub fn revoke(&self, which: &Which) -> Result<usize, TokenError> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| !which.is(entry));
            match before - entries.len() {
                0 => Err(TokenError::NoSuchToken(
                    which.to_string(),
                    self.path.clone(),
                )),
                gone => Ok(gone),
            }
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _lock = file::lock(&self.path)?;
        let mut entries = file::read(&self.path)?.entries;
        let done = change(&mut entries)?;
        file::replace(&self.path, &entries)?;
        Ok(done)
    }
}

/// The tokens of a CA directory, for who checks them. Reads the file again when it is
/// another one.
pub struct TokenReader {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the file that was read; `None` before the first reading.
    stamp: Option<Stamp>,
    nodes: Arc<HashMap<String, Arc<str>>>,
}

impl TokenReader {
    /// A reader of the tokens in the CA directory `dir`. The file need not exist.
    pub fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(FILE),
            known: Mutex::default(),
        }
    }

    /// The node that `token` proves; `None` for a token that is not known (any more).
    /// Reads files, so not to be called on an async thread.
    ///
    /// # Errors
    /// When the file cannot be read, or must not be trusted.
    pub fn node_of(&self, token: &str) -> Result<Option<Arc<str>>, TokenError> {
        let nodes = self.nodes()?;
        Ok(nodes.get(&digest(token)).cloned())
    }

    fn nodes(&self) -> Result<Arc<HashMap<String, Arc<str>>>, TokenError> {
        let stamp = file::stamp(&self.path)?;
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.stamp == Some(stamp) {
                return Ok(Arc::clone(&known.nodes));
            }
        }
        // Of the very file that was read: another may have taken its name since.
        let read = file::read(&self.path)?;
        let nodes = read.entries.into_iter();
        let nodes = Arc::new(
            nodes
                .map(|entry| (entry.sha256, entry.node.into()))
                .collect(),
        );
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known {
            stamp: Some(read.stamp),
            nodes: Arc::clone(&nodes),
        };
        Ok(nodes)
    }
}

impl Which {
    fn is(&self, entry: &Entry) -> bool {
        match self {
            Self::Node(node) => entry.node == *node,
            Self::Id(id) => entry.id == *id,
        }
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => write!(f, "of node {node}"),
            Self::Id(id) => write!(f, "with id {id}"),
        }
    }
}

/// Kubernetes names nodes by DNS subdomains (RFC 1123).
fn is_node_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed)
}

fn digest(token: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    hex(hash.as_ref()).to_string()
}

/// Wiped, since a token's own bytes go through here.
fn hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
