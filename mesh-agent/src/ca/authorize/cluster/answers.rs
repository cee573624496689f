//! What the API server said of tokens a moment ago. An agent that renews many certificates
//! at once costs one review. Owned by [`super::ClusterAuthorizer`].
//!
//! Only good answers are kept, for so short a time that a token that is withdrawn, as when
//! its pod is deleted, is good for no longer than it takes to notice. Tokens themselves
//! are not kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::Instant;

/// How long an answer is good.
pub(super) const TTL: Duration = Duration::from_secs(10);

/// Answers at once. More nodes than this are asked for anew.
const MAX: usize = 8192;

type Hash = [u8; digest::SHA256_OUTPUT_LEN];

#[derive(Default)]
pub(super) struct Answers {
    kept: Mutex<HashMap<Hash, (Arc<str>, Instant)>>,
}

impl Answers {
    /// The node of a token that was good a moment ago.
    pub(super) fn get(&self, token: &str) -> Option<Arc<str>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, since) = kept.get(&hash(token)?)?;
        (since.elapsed() < TTL).then(|| Arc::clone(node))
    }

    /// Keeps a good answer, if there is room.
    pub(super) fn keep(&self, token: &str, node: &Arc<str>) {
        let Some(hash) = hash(token) else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX {
            kept.retain(|_, (_, since)| since.elapsed() < TTL);
        }
        if kept.len() < MAX {
            kept.insert(hash, (Arc::clone(node), Instant::now()));
        }
    }
}

fn hash(token: &str) -> Option<Hash> {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    hash.as_ref().try_into().ok()
}
