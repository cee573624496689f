//! Replacing keys: the intermediate in one step that takes effect by itself, the
//! root in three (prepare, activate, finish), so that everybody trusts the new one
//! before anybody uses it, and nobody uses the old one when it is dropped.

mod status;

use std::path::Path;
use std::time::SystemTime;

use super::import::Fitting;
use super::journal;
use super::layout::Locked;
use super::revoked::Revoked;
use super::stamp::Stamp;
use super::state::{IssuerEntry, Kind, Next, PUBLISHED_AHEAD, RootEntry, State};
use super::{Authority, CaError, disk, import, make, pem};

pub use status::RotationStatus;

/// What a step of a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Key identifier of the intermediate that it is about, in hex.
    pub issuer: String,
    /// When that intermediate begins to sign; `None` when it does already, or
    /// waits for another step.
    pub signs_from: Option<SystemTime>,
}

impl Authority {
    /// Makes a new intermediate below the same root and publishes it; it signs a
    /// minute later, or at once with `at_once`. Below an off-line root, `chain` is
    /// the answer to [`super::request_intermediate`], in PEM.
    ///
    /// # Errors
    /// [`CaError::NoRootKey`], [`CaError::Chain`], or [`CaError::RotationUnderWay`].
    pub fn rotate_intermediate(
        &self,
        chain: Option<&Path>,
        at_once: bool,
    ) -> Result<Step, CaError> {
        let locked = self.layout.lock()?;
        let mut state = locked.state()?;
        let now = self.clock.now();
        match &state.next {
            Some(next) if next.kind == Kind::Root => return Err(prepared()),
            // An earlier call was not patient enough.
            Some(next) if at_once && chain.is_none() => {
                let issuer = next.issuer.clone();
                activate(&locked, &mut state)?;
                return Ok(Step {
                    issuer,
                    signs_from: None,
                });
            }
            Some(_) => {
                return Err(CaError::RotationUnderWay {
                    what: "intermediate",
                    cure: "it signs within a minute; `mesh-agent ca rotate intermediate --now` \
                           lets it sign at once",
                });
            }
            None => {}
        }
        let issuer = match chain {
            None => self.make_below_active_root(&locked, &state, now)?,
            Some(chain) => self.import_below_active_root(&locked, &state, chain, now)?,
        };
        let name = issuer.name.clone();
        publish_next(&mut state, issuer, Kind::Intermediate, now);
        locked.commit(&state)?;
        if at_once {
            activate(&locked, &mut state)?;
        }
        import_done(&locked, chain)?;
        Ok(Step {
            issuer: name,
            signs_from: (!at_once).then(|| now + PUBLISHED_AHEAD),
        })
    }

    /// The first step to a new root: it is trusted beside the old from now on, and
    /// an intermediate below it waits. With an off-line root, `chain` and `roots`
    /// are the answer to [`super::request_intermediate`], in PEM files.
    ///
    /// # Errors
    /// [`CaError::RotationUnderWay`], [`CaError::Chain`].
    pub fn prepare_root(&self, offline: Option<(&Path, &Path)>) -> Result<Step, CaError> {
        let locked = self.layout.lock()?;
        let mut state = locked.state()?;
        if state.next.is_some() || !state.retiring.is_empty() {
            return Err(under_way(&state));
        }
        let now = self.clock.now();
        let issuer = match offline {
            None => {
                let name = state.next_root_name();
                let root = make::root(&locked, &self.trust_domain, name, now)?;
                let issuer = make::intermediate(&locked, &self.trust_domain, &root, now)?;
                state.roots.push(root);
                issuer
            }
            Some((chain, roots)) => self.import_root(&locked, &mut state, chain, roots, now)?,
        };
        let name = issuer.name.clone();
        publish_next(&mut state, issuer, Kind::Root, now);
        locked.commit(&state)?;
        import_done(&locked, offline.map(|(chain, _)| chain))?;
        Ok(Step {
            issuer: name,
            signs_from: None,
        })
    }

    /// The second step: certificates are signed below the new root from now on.
    ///
    /// # Errors
    /// [`CaError::NoRotation`] without the first.
    pub fn activate_root(&self) -> Result<Step, CaError> {
        let locked = self.layout.lock()?;
        let mut state = locked.state()?;
        let Some(Next {
            kind: Kind::Root,
            issuer,
            ..
        }) = state.next.clone()
        else {
            return Err(CaError::NoRotation(
                "no root waits: begin with `mesh-agent ca rotate root prepare`",
            ));
        };
        let old = state.active_root().to_owned();
        state.retiring.push(old);
        activate(&locked, &mut state)?;
        Ok(Step {
            issuer,
            signs_from: None,
        })
    }

    /// The last step: the old root is trusted no more. Returns the names of the
    /// roots that were dropped.
    ///
    /// # Errors
    /// [`CaError::StillInUse`] without `force`; [`CaError::NoRotation`].
    pub fn finish_root(&self, force: bool) -> Result<Vec<String>, CaError> {
        let locked = self.layout.lock()?;
        let mut state = locked.state()?;
        if state.retiring.is_empty() {
            return Err(CaError::NoRotation(match state.next {
                Some(Next {
                    kind: Kind::Root, ..
                }) => "the new root does not sign yet: `mesh-agent ca rotate root activate` first",
                _ => "no root is to be dropped: begin with `mesh-agent ca rotate root prepare`",
            }));
        }
        let (count, until) = in_use(&locked, &state, self.clock.now())?;
        if let (false, Some(until)) = (force, until) {
            return Err(CaError::StillInUse {
                count,
                until: until.time(),
            });
        }
        let dropped = std::mem::take(&mut state.retiring);
        state.roots.retain(|root| !dropped.contains(&root.name));
        state
            .issuers
            .retain(|issuer| !dropped.contains(&issuer.root));
        locked.commit(&state)?;
        Ok(dropped)
    }

    /// Lets an intermediate sign that has been published for long enough.
    pub(super) fn promote_if_due(
        &self,
        locked: &Locked<'_>,
        state: &mut State,
        now: SystemTime,
    ) -> Result<(), CaError> {
        if !state.is_due(now) {
            return Ok(());
        }
        activate(locked, state)?;
        tracing::info!(issuer = %state.active, "a new intermediate signs from now on");
        Ok(())
    }

    /// A new intermediate below the root in use, whose key is here.
    pub(super) fn make_below_active_root(
        &self,
        locked: &Locked<'_>,
        state: &State,
        now: SystemTime,
    ) -> Result<IssuerEntry, CaError> {
        let root = active_root(locked, state)?;
        make::intermediate(locked, &self.trust_domain, root, now)
    }

    fn import_below_active_root(
        &self,
        locked: &Locked<'_>,
        state: &State,
        chain: &Path,
        now: SystemTime,
    ) -> Result<IssuerEntry, CaError> {
        let root = active_root(locked, state)?;
        let roots = pem::certificates(&root.certificate, &locked.state_file())?;
        let fitting = import::fit(locked, &self.trust_domain, chain, &roots, now)?;
        make::write(locked, fitting.chain, &fitting.key, root.name.clone(), now)
    }

    fn import_root(
        &self,
        locked: &Locked<'_>,
        state: &mut State,
        chain_path: &Path,
        roots_path: &Path,
        now: SystemTime,
    ) -> Result<IssuerEntry, CaError> {
        let known = state.root_certificates(&locked.state_file())?;
        let offered = pem::certificates(&disk::read(roots_path)?, roots_path)?;
        let Fitting { chain, key, root } =
            import::fit(locked, &self.trust_domain, chain_path, &offered, now)?;
        if known.contains(&offered[root]) {
            return Err(CaError::Chain {
                path: chain_path.to_owned(),
                reason: "it leads to a root that is trusted already: `mesh-agent ca rotate \
                         intermediate --chain` takes it"
                    .into(),
            });
        }
        let mut name = String::new();
        for (place, certificate) in offered.iter().enumerate() {
            if known.contains(certificate) {
                continue;
            }
            let entry = RootEntry {
                name: state.next_root_name(),
                certificate: pem::block("CERTIFICATE", certificate),
            };
            if place == root {
                name.clone_from(&entry.name);
            }
            state.roots.push(entry);
        }
        make::write(locked, chain, &key, name, now)
    }
}

fn active_root<'a>(locked: &Locked<'_>, state: &'a State) -> Result<&'a RootEntry, CaError> {
    state
        .root(state.active_root())
        .ok_or_else(|| CaError::Unreadable {
            path: locked.state_file(),
            expected: "a consistent state of an authority: restore it from a backup",
        })
}

fn publish_next(state: &mut State, issuer: IssuerEntry, kind: Kind, now: SystemTime) {
    state.next = Some(Next {
        issuer: issuer.name.clone(),
        kind,
        published: Stamp::new(now),
    });
    state.issuers.push(issuer);
}

/// Lets the intermediate sign that waits, and notes until when the old is needed.
pub(super) fn activate(locked: &Locked<'_>, state: &mut State) -> Result<(), CaError> {
    let Some(next) = state.next.take() else {
        return Ok(());
    };
    let mut last = Stamp::new(SystemTime::UNIX_EPOCH);
    journal::read(&locked.journal(), |record| {
        if record.issuer == state.active {
            last = last.max(record.not_after);
        }
    })?;
    let old = std::mem::replace(&mut state.active, next.issuer);
    for issuer in &mut state.issuers {
        if issuer.name == old {
            issuer.last_not_after = Some(last);
        }
    }
    locked.commit(state)
}

/// How many valid certificates there are below the roots that are to be dropped,
/// and when the last ends. What was revoked does not count.
fn in_use(
    locked: &Locked<'_>,
    state: &State,
    now: SystemTime,
) -> Result<(usize, Option<Stamp>), CaError> {
    let below = |record: &str| {
        state
            .issuer(record)
            .is_some_and(|issuer| state.retiring.contains(&issuer.root))
    };
    let revoked = Revoked::read(&locked.revoked())?;
    let (mut count, mut until) = (0, None);
    if state.retiring.is_empty() {
        return Ok((count, until));
    }
    journal::read(&locked.journal(), |record| {
        let valid = record.not_after.time() >= now && !revoked.has_serial(&record.serial);
        if valid && below(&record.issuer) {
            count += 1;
            until = until.max(Some(record.not_after));
        }
    })?;
    Ok((count, until))
}

fn import_done(locked: &Locked<'_>, chain: Option<&Path>) -> Result<(), CaError> {
    chain.map_or(Ok(()), |_| import::done(locked))
}

fn prepared() -> CaError {
    CaError::RotationUnderWay {
        what: "root",
        cure: "go on with `mesh-agent ca rotate root activate`",
    }
}

fn under_way(state: &State) -> CaError {
    match &state.next {
        Some(next) if next.kind == Kind::Root => prepared(),
        Some(_) => CaError::RotationUnderWay {
            what: "intermediate",
            cure: "wait a minute until it signs, or `mesh-agent ca rotate intermediate --now`",
        },
        None => CaError::RotationUnderWay {
            what: "root",
            cure: "end it with `mesh-agent ca rotate root finish`",
        },
    }
}

#[cfg(test)]
mod tests;
