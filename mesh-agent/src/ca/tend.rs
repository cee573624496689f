//! What an authority needs in time: lists signed anew, intermediates replaced and
//! retired, and what a crash left undone.

use std::time::SystemTime;

use super::authority::read_list;
use super::layout::Locked;
use super::revoked::{Revoked, matters};
use super::signer::Signer;
use super::stamp::Stamp;
use super::state::{Kind, Next, State};
use super::{Authority, CaError, crl, disk, journal, profile, rotate};

impl Authority {
    /// Does what is due: revocation lists past half of their life are signed
    /// anew, an intermediate past half of its life is replaced where the root's
    /// key is here, and one whose certificates have all expired is removed. To be
    /// called every minute by whoever serves.
    ///
    /// # Errors
    /// [`CaError`]; the next call tries again.
    pub fn tend(&self) -> Result<(), CaError> {
        let locked = self.layout.lock()?;
        let now = self.clock.now();
        let mut state = locked.state()?;
        journal::repair(&locked.journal())?;
        locked.settle(&state)?;
        let mut revoked = Revoked::read(&locked.revoked())?;
        let before = revoked.certificates.len();
        revoked.forget_expired(now);
        if revoked.certificates.len() != before {
            revoked.write(&locked.revoked())?;
        }
        // Before anything that may fail for want of a key: these are what agents need.
        publish(&locked, &state, &revoked, now)?;
        self.promote_if_due(&locked, &mut state, now)?;
        self.replace_intermediate(&locked, &mut state, now)?;
        retire(&locked, &mut state, now)
    }

    fn replace_intermediate(
        &self,
        locked: &Locked<'_>,
        state: &mut State,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let signer = self.signer(locked, state)?;
        let Some(root) = state.root(state.active_root()) else {
            return Ok(());
        };
        let has_key = disk::exists(&locked.root_key(&root.name))?;
        if state.next.is_some() || !signer.is_past_half(now) || !has_key {
            return Ok(());
        }
        let root_end = super::make::root_signer(locked, root)?.not_after();
        let end = (now + profile::INTERMEDIATE_LIFETIME).min(root_end);
        if end <= signer.not_after() + profile::LEAF_LIFETIME {
            // The root ends with it: only a new root helps.
            return Ok(());
        }
        let issuer = self.make_below_active_root(locked, state, now)?;
        tracing::info!(issuer = %issuer.name, "half of the intermediate's life is over: made another");
        state.next = Some(Next {
            issuer: issuer.name.clone(),
            kind: Kind::Intermediate,
            published: Stamp::new(now),
        });
        state.issuers.push(issuer);
        locked.commit(state)?;
        if now > signer.not_after() {
            // Nothing can be signed until it takes over.
            rotate::activate(locked, state)?;
        }
        Ok(())
    }
}

/// Signs anew each list that does not say what it should; tells how many.
pub(super) fn publish(
    locked: &Locked<'_>,
    state: &State,
    revoked: &Revoked,
    now: SystemTime,
) -> Result<usize, CaError> {
    let mut signed = 0;
    let mut failure = None;
    for issuer in &state.issuers {
        match publish_one(locked, &issuer.name, revoked, now) {
            Ok(true) => signed += 1,
            Ok(false) => {}
            // One damaged intermediate keeps no other from its list.
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(signed), Err)
}

fn publish_one(
    locked: &Locked<'_>,
    name: &str,
    revoked: &Revoked,
    now: SystemTime,
) -> Result<bool, CaError> {
    let last = match read_list(locked, name) {
        Ok(list) if !list.is_outdated(name, &revoked.certificates, now) => return Ok(false),
        Ok(list) => Some(list.number()),
        Err(error) => {
            tracing::warn!(%error, "signing a damaged revocation list anew");
            None
        }
    };
    let files = locked.issuer(name);
    let signer = Signer::load(&files)?;
    let list = crl::make(&signer, &revoked.certificates, last, now)?;
    disk::replace(&files.list(), list.as_bytes(), disk::PUBLIC)?;
    Ok(true)
}

/// Removes intermediates that no longer sign and whose certificates expired long ago.
fn retire(locked: &Locked<'_>, state: &mut State, now: SystemTime) -> Result<(), CaError> {
    let before = state.issuers.len();
    state.issuers.retain(|issuer| {
        // Until then its list can still cut what outlived its certificates.
        issuer
            .last_not_after
            .is_none_or(|last| matters(last.time(), now))
    });
    if state.issuers.len() == before {
        return Ok(());
    }
    locked.commit(state)
}

#[cfg(test)]
mod tests;
