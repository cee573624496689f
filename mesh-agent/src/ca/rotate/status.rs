//! Where rotations stand, for `ca rotate status`.

use serde::Serialize;

use super::in_use;
use crate::ca::stamp::Stamp;
use crate::ca::state::{Kind, PUBLISHED_AHEAD, State};
use crate::ca::{Authority, CaError, disk};
use crate::identity::clock::display;

/// Where rotations stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// The intermediate that signs: its key identifier in hex.
    pub active: String,
    /// End of its validity, RFC 3339.
    pub active_until: String,
    /// The root to which it leads.
    pub root: String,
    /// Names of all trusted roots.
    pub roots: Vec<String>,
    /// Roots whose keys are in the directory.
    pub keys: Vec<String>,
    /// What is rotated at the moment: `intermediate` or `root`.
    pub rotating: Option<&'static str>,
    /// Roots that are to be dropped by `rotate root finish`.
    pub retiring: Vec<String>,
    /// Valid certificates below those.
    pub in_use: usize,
    /// End of the last of these, RFC 3339.
    pub in_use_until: Option<String>,
    /// What a person does next.
    pub next_step: String,
}

impl Authority {
    /// Where rotations stand, and what comes next.
    ///
    /// # Errors
    /// [`CaError`] when the directory cannot be read.
    pub fn rotation(&self) -> Result<RotationStatus, CaError> {
        let locked = self.layout.lock()?;
        let state = locked.state()?;
        let (in_use, until) = in_use(&locked, &state, self.clock.now())?;
        let signer = self.signer(&locked, &state)?;
        let mut keys = Vec::new();
        for root in &state.roots {
            if disk::exists(&locked.root_key(&root.name))? {
                keys.push(root.name.clone());
            }
        }
        Ok(RotationStatus {
            active_until: display(signer.not_after()),
            root: state.active_root().to_owned(),
            roots: state.roots.iter().map(|root| root.name.clone()).collect(),
            keys,
            rotating: match state.next.as_ref().map(|next| next.kind) {
                Some(Kind::Intermediate) => Some("intermediate"),
                Some(Kind::Root) => Some("root"),
                None if !state.retiring.is_empty() => Some("root"),
                None => None,
            },
            next_step: next_step(&state, until),
            retiring: state.retiring,
            active: state.active,
            in_use,
            in_use_until: until.map(|until| display(until.time())),
        })
    }
}

fn next_step(state: &State, in_use_until: Option<Stamp>) -> String {
    match (&state.next, in_use_until) {
        (Some(next), _) if next.kind == Kind::Root => {
            "mesh-agent ca rotate root activate, once all agents know the new root".into()
        }
        (Some(next), _) => format!(
            "none: the new intermediate signs from {}",
            display(next.published.time() + PUBLISHED_AHEAD)
        ),
        (None, Some(until)) => format!(
            "mesh-agent ca rotate root finish, after {}",
            display(until.time())
        ),
        (None, None) if !state.retiring.is_empty() => "mesh-agent ca rotate root finish".into(),
        (None, None) => "none".into(),
    }
}
