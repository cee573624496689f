//! Keeps the trust store up to date: what was saved, then what the authority tells,
//! or the files where it does not tell. Spawned by [`super::RemoteCa::follow`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::link::{Watched, backoff, blocking};
use super::{RemoteCa, RemoteError, TrustFrom, files, saved};
use crate::ca::api::TrustMessage;
use crate::identity::{DomainTrust, Revocation, TrustBundle, TrustStore, TrustUpdate};

/// How often the files are looked at. By their names and not by inotify: they may be
/// links through links, as in a mounted ConfigMap, any of which may be switched.
const LOOK: Duration = Duration::from_secs(1);

/// How long the files count before the authority is asked again whether it tells: it
/// may have been replaced by one that does.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// How often the token is looked at. A new one is shown to the authority at once: one that
/// it has seen is still good when the API server, which it asks, is away later.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(10);

pub(super) async fn follow(ca: &RemoteCa, store: &TrustStore) {
    restore(ca, store).await;
    let mut failures = 0;
    loop {
        let before = Instant::now();
        match watch(ca, store, &mut failures).await {
            // Its connection had grown old, the authority restarts, or the token is a new one.
            Ok(Ended::InOrder) => {}
            Ok(Ended::NotOffered) => {
                failures = 0;
                files(ca, store, before + ASK_AGAIN).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "the authority does not tell trust, keeping what it told last");
                ca.tracker.note::<(), _>(&Err(error), ca.clock.now());
            }
        }
        tokio::time::sleep(backoff(failures)).await;
        failures = failures.saturating_add(1);
    }
}

enum Ended {
    InOrder,
    NotOffered,
}

async fn watch(
    ca: &RemoteCa,
    store: &TrustStore,
    failures: &mut u32,
) -> Result<Ended, RemoteError> {
    let token = token_version(ca).await;
    let mut stream = match ca.link.watch().await? {
        Watched::Stream(stream) => stream,
        Watched::NotOffered => return Ok(Ended::NotOffered),
    };
    let mut first = true;
    loop {
        let message = tokio::select! {
            message = ca.link.next(&mut stream, first) => message?,
            () = token_replaced(ca, token) => None,
        };
        let Some(message) = message else {
            return Ok(Ended::InOrder);
        };
        first = false;
        let update = message
            .read(store.own())
            .map_err(|error| RemoteError::Trust {
                endpoint: Arc::clone(ca.link.endpoint()),
                error,
            })?;
        *failures = 0;
        take(ca, store, update, TrustFrom::Watch);
        ca.tracker.note::<_, RemoteError>(&Ok(()), ca.clock.now());
        save(ca, message).await;
    }
}

/// Returns when the token's file is another than it was.
async fn token_replaced(ca: &RemoteCa, was: Version) {
    loop {
        tokio::time::sleep(LOOK_AT_TOKEN).await;
        let now = token_version(ca).await;
        // While there is none there is nothing to show.
        if now.is_some() && now != was {
            return;
        }
    }
}

async fn token_version(ca: &RemoteCa) -> Version {
    let path = ca.settings.token_file.clone();
    blocking(move || version(&path)).await
}

fn take(ca: &RemoteCa, store: &TrustStore, update: TrustUpdate, source: TrustFrom) {
    ca.link.learn(update.domain.clone());
    store.set_own(update);
    ca.tracker.trust_from(source);
}

async fn restore(ca: &RemoteCa, store: &TrustStore) {
    let (dir, endpoint) = (
        ca.settings.state_dir.clone(),
        Arc::clone(ca.link.endpoint()),
    );
    let read = blocking(move || saved::read(&dir, &endpoint)).await;
    match read.map(|found| found.map(|message| message.read(store.own()))) {
        Ok(None) => {}
        Ok(Some(Ok(update))) => take(ca, store, update, TrustFrom::Saved),
        Ok(Some(Err(error))) => tracing::warn!(%error, "the saved trust is not used"),
        Err(error) => tracing::warn!(%error, "the saved trust is not used"),
    }
}

async fn save(ca: &RemoteCa, message: TrustMessage) {
    let (dir, endpoint) = (
        ca.settings.state_dir.clone(),
        Arc::clone(ca.link.endpoint()),
    );
    if let Err(error) = blocking(move || saved::write(&dir, &endpoint, message)).await {
        tracing::warn!(%error, "what the authority told is not saved: it is lost when the agent restarts");
    }
}

/// Follows the files until `until`.
async fn files(ca: &RemoteCa, store: &TrustStore, until: Instant) {
    let (roots, lists) = (ca.settings.roots_file.clone(), ca.settings.crl_file.clone());
    let mut seen = None;
    while Instant::now() < until {
        let (roots, lists, was) = (roots.clone(), lists.clone(), seen);
        let look = blocking(move || {
            let now = (version(&roots), lists.as_deref().map(version));
            // Looked at before it is read: a change in between is read twice.
            (was != Some(now)).then(|| (now, read(&roots, lists.as_deref())))
        });
        if let Some((version, read)) = look.await {
            seen = Some(version);
            match read {
                Ok((roots, revocation)) => {
                    let bundle = TrustBundle::new(store.own().clone(), roots);
                    let update = TrustUpdate {
                        domain: DomainTrust { bundle, revocation },
                        issuer: None,
                    };
                    take(ca, store, update, TrustFrom::Files);
                }
                Err(error) => {
                    tracing::warn!(%error, "the roots stay those that were in force");
                    ca.tracker.note::<(), _>(&Err(error), ca.clock.now());
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

type Read = (Vec<rustls::pki_types::CertificateDer<'static>>, Revocation);

fn read(roots: &Path, lists: Option<&Path>) -> Result<Read, RemoteError> {
    let revocation = lists.map_or(Revocation::NotUsed, files::lists);
    Ok((files::roots(roots)?, revocation))
}

/// Tells one version of a file from another; `None` for one that is not there.
type Version = Option<(u64, u64, i64, i64)>;

fn version(path: &Path) -> Version {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
}
