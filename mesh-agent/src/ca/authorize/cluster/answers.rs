//! What the API server said of tokens. Owned by [`super::ClusterAuthorizer`].
//!
//! Only good answers are kept. For a few seconds one is as good as new, so that an agent
//! that renews many certificates at once costs one review; so short a time that a token that
//! is withdrawn, as when its pod is deleted, is good for no longer than it takes to notice.
//! Until its token expires it is what was said before, for when the API server is away.
//! Tokens themselves are not kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use tokio::time::Instant;

use super::review::Bearer;
use super::token;

/// How long an answer is as good as new.
pub(super) const TTL: Duration = Duration::from_secs(10);

/// Answers at once. An agent has one or two: its kubelet replaces a token when four fifths
/// of its life are over. More than this are asked for anew each time.
const MAX: usize = 16_384;

pub(super) type Hash = [u8; digest::SHA256_OUTPUT_LEN];

#[derive(Default)]
pub(super) struct Answers {
    kept: Mutex<HashMap<Hash, Answer>>,
}

struct Answer {
    bearer: Bearer,
    said: Instant,
    /// When its token expires, as the token says.
    expires: SystemTime,
}

impl Answers {
    /// The bearer of a token that was good a moment ago.
    pub(super) fn fresh(&self, token: &str) -> Option<Bearer> {
        self.find(token, |answer| answer.said.elapsed() < TTL)
    }

    /// The bearer of a token that was good when the API server last said anything of it,
    /// and has not expired since.
    pub(super) fn before(&self, token: &str) -> Option<Bearer> {
        self.find(token, |answer| SystemTime::now() < answer.expires)
    }

    /// Whether the token was good when the API server last said anything of it.
    pub(super) fn was_good(&self, token: &str) -> bool {
        self.find(token, |_| true).is_some()
    }

    /// Keeps a good answer, if there is room.
    pub(super) fn keep(&self, token: &str, bearer: &Bearer) {
        let Some(hash) = hash(token) else { return };
        let now = SystemTime::now();
        let answer = Answer {
            bearer: bearer.clone(),
            said: Instant::now(),
            expires: token::expiry(token).unwrap_or(now),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX {
            kept.retain(|_, answer| now < answer.expires);
        }
        if kept.len() < MAX || kept.contains_key(&hash) {
            kept.insert(hash, answer);
        }
    }

    /// Forgets a token that was refused: it was withdrawn.
    pub(super) fn forget(&self, token: &str) {
        let Some(hash) = hash(token) else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&hash);
    }

    fn find(&self, token: &str, good: impl Fn(&Answer) -> bool) -> Option<Bearer> {
        let hash = hash(token)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.get(&hash).filter(|answer| good(answer))?;
        Some(answer.bearer.clone())
    }
}

/// What stands for a token where it is kept.
pub(super) fn hash(token: &str) -> Option<Hash> {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    hash.as_ref().try_into().ok()
}
