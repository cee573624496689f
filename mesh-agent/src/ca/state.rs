//! What an authority is, in one file, `authority.json`. Replacing it is the
//! instant at which an init or a rotation takes effect: everything that it names
//! was synced before, and what it does not name is a leftover.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use super::{CaError, disk, pem};
use crate::identity::TrustDomain;

/// Version of the file's form.
const VERSION: u32 = 1;

/// How long a new intermediate is published before it signs: agents learn of its
/// revocation list within seconds, and refuse certificates of an issuer for which
/// they have none.
pub(super) const PUBLISHED_AHEAD: Duration = Duration::from_secs(60);

/// The authority at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    trust_domain: String,
    /// Trusted roots, oldest first.
    pub(super) roots: Vec<RootEntry>,
    /// Intermediates whose certificates may be in use.
    pub(super) issuers: Vec<IssuerEntry>,
    /// The one that signs.
    pub(super) active: String,
    /// The one that is to sign next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Next>,
    /// Roots that no longer sign and are trusted until `rotate root finish`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) retiring: Vec<String>,
}

/// A trusted root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RootEntry {
    /// Names its key's file, where the key is here.
    pub(super) name: String,
    /// In PEM.
    pub(super) certificate: String,
}

/// An intermediate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IssuerEntry {
    /// Its subject key identifier in hex, which names its directory.
    pub(super) name: String,
    /// The root to which it leads.
    pub(super) root: String,
    /// Set when it ceased to sign: end of the last certificate that it signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_not_after: Option<Stamp>,
}

/// A rotation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Next {
    /// The intermediate that takes over.
    pub(super) issuer: String,
    /// What is rotated.
    pub(super) kind: Kind,
    /// Since when it is published.
    pub(super) published: Stamp,
}

/// What is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// The intermediate alone, which takes over by itself.
    Intermediate,
    /// The root, which waits for `rotate root activate`.
    Root,
}

impl State {
    pub(super) fn new(
        trust_domain: &TrustDomain,
        roots: Vec<RootEntry>,
        issuer: IssuerEntry,
    ) -> Self {
        Self {
            version: VERSION,
            trust_domain: trust_domain.to_string(),
            roots,
            active: issuer.name.clone(),
            issuers: vec![issuer],
            next: None,
            retiring: Vec::new(),
        }
    }

    /// Reads and checks the file; `None` when there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CaError> {
        if !disk::exists(path)? {
            return Ok(None);
        }
        let unreadable = |expected| CaError::Unreadable {
            path: path.to_owned(),
            expected,
        };
        let text = disk::read(path)?;
        let state: Self = serde_json::from_str(&text).map_err(|_| {
            unreadable("the state of an authority (JSON): restore it from a backup")
        })?;
        if state.version != VERSION {
            return Err(unreadable(
                "of a version that this mesh-agent knows (1): use a newer mesh-agent",
            ));
        }
        let known = |name: &str| state.issuers.iter().any(|issuer| issuer.name == name);
        let root = |name: &str| state.roots.iter().any(|root| root.name == name);
        let consistent = known(&state.active)
            && state.next.as_ref().is_none_or(|next| known(&next.issuer))
            && state.issuers.iter().all(|issuer| root(&issuer.root))
            && state.names().all(is_plain)
            && TrustDomain::new(&state.trust_domain).is_ok();
        if !consistent {
            return Err(unreadable(
                "a consistent state of an authority: restore it from a backup",
            ));
        }
        Ok(Some(state))
    }

    /// Puts this state into force.
    pub(super) fn write(&self, path: &Path) -> Result<(), CaError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| CaError::Io {
            action: "encode",
            path: path.to_owned(),
            source: error.into(),
        })?;
        disk::replace(path, text.as_bytes(), disk::PUBLIC)
    }

    pub(super) fn trust_domain(&self) -> Option<TrustDomain> {
        TrustDomain::new(&self.trust_domain).ok()
    }

    pub(super) fn issuer(&self, name: &str) -> Option<&IssuerEntry> {
        self.issuers.iter().find(|issuer| issuer.name == name)
    }

    /// The root of the intermediate that signs.
    pub(super) fn active_root(&self) -> &str {
        self.issuer(&self.active).map_or("", |issuer| &issuer.root)
    }

    pub(super) fn root(&self, name: &str) -> Option<&RootEntry> {
        self.roots.iter().find(|root| root.name == name)
    }

    /// The trusted roots in DER.
    pub(super) fn root_certificates(
        &self,
        path: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        pem::certificates(&self.roots_pem(), path)
    }

    /// The trusted roots in PEM.
    pub(super) fn roots_pem(&self) -> String {
        let all = self.roots.iter().map(|root| root.certificate.as_str());
        all.collect()
    }

    /// A name that no root has had yet.
    pub(super) fn next_root_name(&self) -> String {
        let number = |root: &RootEntry| root.name.rsplit('-').next()?.parse::<u32>().ok();
        let last = self.roots.iter().filter_map(number).max().unwrap_or(0);
        format!("root-{}", last.saturating_add(1))
    }

    /// Whether an intermediate waits that has been published for long enough.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.next.as_ref().is_some_and(|next| {
            next.kind == Kind::Intermediate && now >= next.published.time() + PUBLISHED_AHEAD
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let issuers = self.issuers.iter().map(|issuer| issuer.name.as_str());
        issuers.chain(self.roots.iter().map(|root| root.name.as_str()))
    }
}

/// Whether a name from the file stays in its directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
