//! The right to see metrics, by the Kubernetes API: a TokenReview says who bears the token, and
//! a SubjectAccessReview whether the bearer may `get` `/metrics`.
//!
//! Answers are remembered for a while, at most [`MAX_ANSWERS`] of them, and few questions are
//! asked at a time: tokens that are made up cost the API server little.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use http::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::{Scrape, unauthorized};

/// How long a token that has the right keeps it without another question.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long a token that lacks it is refused without another question.
const BAD_FOR: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const MAX_ANSWERS: usize = 256;
/// Questions at a time.
const MAX_QUESTIONS: usize = 4;
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The non-resource URL whose `get` is the right.
const PATH: &str = "/metrics";

type TokenHash = [u8; digest::SHA256_OUTPUT_LEN];

/// Asks the API server.
pub(super) struct ClusterAccess {
    client: Client,
    answers: Mutex<HashMap<TokenHash, (Scrape, Instant)>>,
    questions: Semaphore,
}

impl std::fmt::Debug for ClusterAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterAccess").finish_non_exhaustive()
    }
}

impl ClusterAccess {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
        }
    }

    /// What the bearer of `token` is answered. Blocks.
    pub(super) fn decide(&self, token: &str) -> Scrape {
        Handle::current().block_on(self.decide_at(token, Instant::now()))
    }

    async fn decide_at(&self, token: &str, now: Instant) -> Scrape {
        let key = hash(token);
        if let Some(answer) = self.remembered(&key, now) {
            return answer;
        }
        let Ok(_asking) = self.questions.try_acquire() else {
            return unavailable("too many tokens are being verified at this moment");
        };
        match tokio::time::timeout(PATIENCE, self.ask(token)).await {
            Ok(Ok(answer)) => {
                self.remember(key, answer.clone(), now);
                answer
            }
            Ok(Err(error)) => unavailable(&format!("the API server did not answer: {error}")),
            Err(_) => unavailable("the API server did not answer in time"),
        }
    }

    async fn ask(&self, token: &str) -> Result<Scrape, kube::Error> {
        let Some(user) = self.user(token).await? else {
            return Ok(unauthorized("the API server does not know this token"));
        };
        let name = user.username.clone().unwrap_or_default();
        if self.may_see(user).await? {
            return Ok(Scrape::Named);
        }
        Ok(Scrape::Refused(
            StatusCode::FORBIDDEN,
            format!(
                "{name} may not get the non-resource URL {PATH}: bind it to a ClusterRole with \
                 nonResourceURLs: [{PATH}], verbs: [get]"
            ),
        ))
    }

    async fn user(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                audiences: None,
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &question).await?;
        let status = answer.status.unwrap_or_default();
        let known = status.authenticated == Some(true) && status.error.is_none();
        Ok(status.user.filter(|_| known))
    }

    async fn may_see(&self, user: UserInfo) -> Result<bool, kube::Error> {
        let question = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(PATH.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &question).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    fn remembered(&self, key: &TokenHash, now: Instant) -> Option<Scrape> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = answers.get(key)?;
        (now < *until).then(|| answer.clone())
    }

    fn remember(&self, key: TokenHash, answer: Scrape, now: Instant) {
        let good_for = match answer {
            Scrape::Named => GOOD_FOR,
            _ => BAD_FOR,
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.retain(|_, (_, until)| now < *until);
        }
        if answers.len() >= MAX_ANSWERS
            && let Some(first) = answers.iter().min_by_key(|(_, (_, until))| *until)
        {
            let first = *first.0;
            answers.remove(&first);
        }
        answers.insert(key, (answer, now + good_for));
    }
}

fn hash(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

fn unavailable(why: &str) -> Scrape {
    Scrape::Refused(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
}

#[cfg(test)]
mod tests;
