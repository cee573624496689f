//! How the client's work goes, for `status`. Written by [`super::link`] and
//! [`super::follow`].

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

/// The state of the client of a remote authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// As it was configured.
    pub endpoint: String,
    /// Whether a connection is open.
    pub connected: bool,
    /// When it last answered what was asked.
    pub last_success: Option<SystemTime>,
    /// What last went wrong; `None` once it works again.
    pub last_error: Option<String>,
    /// Where the trust in force comes from.
    pub trust_from: TrustFrom,
}

/// A source of trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustFrom {
    /// Nothing is known yet: no peer can be trusted.
    #[default]
    Nothing,
    /// What an earlier run of the agent was told and saved.
    Saved,
    /// The authority tells it, and tells every change.
    Watch,
    /// The files of roots and revocation lists, for an authority that does not tell.
    Files,
}

#[derive(Debug, Default)]
pub(super) struct Tracker {
    state: Mutex<State>,
    trust_from: watch::Sender<TrustFrom>,
}

#[derive(Debug, Default)]
struct State {
    last_success: Option<SystemTime>,
    last_error: Option<String>,
}

impl Tracker {
    /// Notes the outcome of asking.
    pub(super) fn note<T, E: Display>(&self, outcome: &Result<T, E>, now: SystemTime) {
        let mut state = self.state();
        match outcome {
            Ok(_) => {
                state.last_success = Some(now);
                state.last_error = None;
            }
            Err(error) => state.last_error = Some(error.to_string()),
        }
    }

    pub(super) fn trust_from(&self, source: TrustFrom) {
        self.trust_from.send_replace(source);
    }

    /// Completes when any trust is in force.
    pub(super) async fn trust_known(&self) {
        let mut source = self.trust_from.subscribe();
        // The sender lives as long as this.
        let _ = source
            .wait_for(|source| *source != TrustFrom::Nothing)
            .await;
    }

    pub(super) fn health(&self, endpoint: &str, connected: bool) -> Health {
        let state = self.state();
        Health {
            endpoint: endpoint.to_owned(),
            connected,
            last_success: state.last_success,
            last_error: state.last_error.clone(),
            trust_from: *self.trust_from.borrow(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
