//! The files of an authority's directory, and which of them may be written when.
//!
//! | file | what it is |
//! |---|---|
//! | `authority.json` | trust domain, trusted roots, intermediates, who signs: the state, replaced as a whole |
//! | `roots.pem` | a copy of the trusted roots, for other programs |
//! | `root-keys/NAME.pem` | the key of a root that was made here; absent with an off-line root |
//! | `issuers/ID/{chain,key,crl}.pem` | an intermediate: its certificate and those above it, its key, its revocation list |
//! | `pending/` | the key of an intermediate that waits for its certificate |
//! | `issued.log` | everything that was ever signed |
//! | `revoked.json` | what was revoked |
//! | `lock` | held by whoever reads or writes more than one of these |
//!
//! Keys and intermediates are complete and synced before the state names them.
//! What it does not name is a leftover of a crash, and is removed by the next
//! rotation.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::state::State;
use super::{CaError, disk};

/// An authority's directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    path: PathBuf,
}

/// The directory, while nobody else uses it.
pub(super) struct Locked<'a> {
    layout: &'a Layout,
    _lock: File,
}

impl Layout {
    /// The directory at `path`, which is made when it is not there.
    pub(super) fn create(path: &Path) -> Result<Self, CaError> {
        disk::make_dir(path)?;
        Self::existing(path)
    }

    /// The directory at `path`. Refused when others than the owner can enter it.
    pub(super) fn existing(path: &Path) -> Result<Self, CaError> {
        if !disk::exists(path)? {
            return Err(CaError::NotInitialised {
                dir: path.to_owned(),
            });
        }
        disk::check_dir(path, 0o077)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Waits until nobody else uses the directory.
    pub(super) fn lock(&self) -> Result<Locked<'_>, CaError> {
        Ok(Locked {
            layout: self,
            _lock: disk::lock(&self.path.join("lock"))?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.path.join("authority.json")
    }

    pub(super) fn roots_file(&self) -> PathBuf {
        self.path.join("roots.pem")
    }

    pub(super) fn root_keys(&self) -> PathBuf {
        self.path.join("root-keys")
    }

    pub(super) fn root_key(&self, name: &str) -> PathBuf {
        self.root_keys().join(format!("{name}.pem"))
    }

    pub(super) fn issuers(&self) -> PathBuf {
        self.path.join("issuers")
    }

    pub(super) fn issuer(&self, name: &str) -> IssuerFiles {
        IssuerFiles(self.issuers().join(name))
    }

    pub(super) fn pending(&self) -> PathBuf {
        self.path.join("pending")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("issued.log")
    }

    pub(super) fn revoked(&self) -> PathBuf {
        self.path.join("revoked.json")
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        self.layout
    }
}

impl Locked<'_> {
    /// The state in force.
    ///
    /// # Errors
    /// [`CaError::NotInitialised`] when there is none.
    pub(super) fn state(&self) -> Result<State, CaError> {
        self.find_state()?.ok_or_else(|| CaError::NotInitialised {
            dir: self.path.clone(),
        })
    }

    /// The state in force, if there is one.
    ///
    /// # Errors
    /// [`CaError::Incomplete`] when it is gone from a directory that was in use:
    /// taken for a new one, its keys would be leftovers.
    pub(super) fn find_state(&self) -> Result<Option<State>, CaError> {
        let found = State::read(&self.state_file())?;
        if found.is_none() && disk::exists(&self.journal())? {
            return Err(CaError::Incomplete {
                present: self.journal(),
                missing: self.state_file(),
            });
        }
        Ok(found)
    }

    /// Puts a state into force, then brings the copy of the roots in line with it
    /// and removes what it does not name.
    pub(super) fn commit(&self, state: &State) -> Result<(), CaError> {
        state.write(&self.state_file())?;
        self.settle(state)
    }

    /// Does what [`Self::commit`] would have done had the process not died.
    pub(super) fn settle(&self, state: &State) -> Result<(), CaError> {
        let (roots, text) = (self.roots_file(), state.roots_pem());
        if !disk::exists(&roots)? || disk::read(&roots)? != text {
            disk::replace(&roots, text.as_bytes(), disk::PUBLIC)?;
        }
        for name in disk::names(&self.issuers())? {
            if state.issuer(&name).is_none() {
                disk::remove_dir(&self.issuers().join(name))?;
            }
        }
        for file in disk::names(&self.root_keys())? {
            let root = file.strip_suffix(".pem");
            if root.is_none_or(|root| state.root(root).is_none()) {
                disk::remove(&self.root_keys().join(file))?;
            }
        }
        Ok(())
    }

    /// Writes an intermediate whole, in one step.
    pub(super) fn add_issuer(
        &self,
        name: &str,
        chain: &str,
        key: &str,
        list: &str,
    ) -> Result<(), CaError> {
        let (new, place) = (self.issuers().join("new"), self.issuers().join(name));
        disk::remove_dir(&new)?;
        // One of this name is a leftover: nobody names it, or it would not be added.
        disk::remove_dir(&place)?;
        disk::make_dir(&new)?;
        let files = IssuerFiles(new.clone());
        disk::write_synced(&files.key(), key.as_bytes(), disk::SECRET)?;
        disk::write_synced(&files.chain(), chain.as_bytes(), disk::PUBLIC)?;
        disk::write_synced(&files.list(), list.as_bytes(), disk::PUBLIC)?;
        disk::sync_dir(&new)?;
        disk::rename(&new, &place)?;
        disk::sync_dir(self.path())
    }

    /// Writes the key of a root.
    pub(super) fn add_root_key(&self, name: &str, key: &str) -> Result<(), CaError> {
        disk::make_dir(&self.root_keys())?;
        disk::sync_dir(self.path())?;
        disk::replace(&self.root_key(name), key.as_bytes(), disk::SECRET)
    }
}

/// The files of one intermediate.
pub(super) struct IssuerFiles(PathBuf);

impl IssuerFiles {
    pub(super) fn chain(&self) -> PathBuf {
        self.0.join("chain.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    pub(super) fn list(&self) -> PathBuf {
        self.0.join("crl.pem")
    }
}
