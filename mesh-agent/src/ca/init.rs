//! The beginning of an authority: `mesh-agent ca init`, and the embedded one's
//! first start.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::layout::{Layout, Locked};
use super::revoked::Revoked;
use super::state::{RootEntry, State};
use super::{Authority, CaError, disk, import, make, pem};
use crate::identity::{Clock, TrustDomain};

/// Makes an authority with a root of its own.
///
/// # Errors
/// [`CaError::AlreadyInitialised`], and what the system refuses.
pub fn init(dir: &Path, domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Authority, CaError> {
    let layout = Layout::create(dir)?;
    let locked = layout.lock()?;
    refuse_second(&locked)?;
    refuse_waiting(&locked)?;
    make_all(&locked, domain, clock.now())?;
    drop(locked);
    Authority::open(dir, clock)
}

/// The authority in `dir`, which is made when there is none. Those who call it at
/// the same instant all get one and the same. Killed in between, it is called again.
///
/// # Errors
/// [`CaError::ChainAwaited`], what [`Authority::open`] finds, and what the system refuses.
pub fn open_or_init(
    dir: &Path,
    domain: &TrustDomain,
    clock: Arc<dyn Clock>,
) -> Result<Authority, CaError> {
    let layout = Layout::create(dir)?;
    let locked = layout.lock()?;
    if locked.find_state()?.is_none() {
        refuse_waiting(&locked)?;
        make_all(&locked, domain, clock.now())?;
    }
    drop(locked);
    Authority::open(dir, clock)
}

/// The request (PKCS #10 in PEM) for an intermediate below somebody else's root.
/// Its key stays in `dir`. Asked again, it answers the same until its chain comes.
/// `domain` is needed where there is no authority yet, and must be the authority's
/// where there is one.
///
/// # Errors
/// [`CaError::OtherTrustDomain`], and what the system refuses.
pub fn request_intermediate(dir: &Path, domain: &TrustDomain) -> Result<String, CaError> {
    let layout = Layout::create(dir)?;
    let locked = layout.lock()?;
    let found = locked.find_state()?.and_then(|state| state.trust_domain());
    match found {
        Some(found) if found != *domain => Err(CaError::OtherTrustDomain {
            path: dir.to_owned(),
            found,
            configured: domain.clone(),
        }),
        _ => import::request(&locked, domain),
    }
}

/// Makes an authority from the chain that answers [`request_intermediate`], and
/// the roots to which it leads, in PEM files. The root's key is never here.
///
/// # Errors
/// [`CaError::AlreadyInitialised`], [`CaError::NothingPending`], or
/// [`CaError::Chain`] with what does not fit.
pub fn init_with_chain(
    dir: &Path,
    chain: &Path,
    roots: &Path,
    clock: Arc<dyn Clock>,
) -> Result<Authority, CaError> {
    let layout = Layout::existing(dir)?;
    let locked = layout.lock()?;
    refuse_second(&locked)?;
    let domain = import::trust_domain(&locked)?.ok_or_else(|| CaError::NothingPending {
        dir: dir.to_owned(),
    })?;
    let now = clock.now();
    let certificates = pem::certificates(&disk::read(roots)?, roots)?;
    let fitting = import::fit(&locked, &domain, chain, &certificates, now)?;
    let entries: Vec<_> = (1..)
        .zip(&certificates)
        .map(|(number, der)| RootEntry {
            name: format!("root-{number}"),
            certificate: pem::block("CERTIFICATE", der),
        })
        .collect();
    let root = entries[fitting.root].name.clone();
    let issuer = make::write(&locked, fitting.chain, &fitting.key, root, now)?;
    Revoked::default().write(&locked.revoked())?;
    locked.commit(&State::new(&domain, entries, issuer))?;
    import::done(&locked)?;
    drop(locked);
    Authority::open(dir, clock)
}

fn refuse_second(locked: &Locked<'_>) -> Result<(), CaError> {
    match locked.find_state()? {
        None => Ok(()),
        Some(_) => Err(CaError::AlreadyInitialised {
            dir: locked.path().to_owned(),
        }),
    }
}

/// Where a request waits, an off-line root was meant: making another root would
/// start a mesh that nobody wants.
fn refuse_waiting(locked: &Locked<'_>) -> Result<(), CaError> {
    match import::trust_domain(locked)? {
        None => Ok(()),
        Some(_) => Err(CaError::ChainAwaited {
            dir: locked.path().to_owned(),
        }),
    }
}

fn make_all(locked: &Locked<'_>, domain: &TrustDomain, now: SystemTime) -> Result<(), CaError> {
    let root = make::root(locked, domain, "root-1".into(), now)?;
    let issuer = make::intermediate(locked, domain, &root, now)?;
    Revoked::default().write(&locked.revoked())?;
    locked.commit(&State::new(domain, vec![root], issuer))
}

#[cfg(test)]
mod tests;
