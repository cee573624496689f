//! What was revoked, in `revoked.json`: certificates, until they expire, and
//! identities that get no certificate until they are restored. The lists that
//! agents check are made from it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use super::{CaError, disk};

const VERSION: u32 = 1;

/// Everything that is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Revoked {
    version: u32,
    pub(super) certificates: Vec<RevokedCertificate>,
    pub(super) identities: Vec<RevokedIdentity>,
}

/// A certificate that is refused from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RevokedCertificate {
    pub(super) serial: String,
    pub(super) identity: String,
    pub(super) issuer: String,
    pub(super) time: Stamp,
    pub(super) reason: Reason,
    pub(super) not_after: Stamp,
}

/// An identity that gets no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RevokedIdentity {
    pub(super) identity: String,
    pub(super) time: Stamp,
    pub(super) reason: Reason,
}

/// Why something was revoked: the reasons of RFC 5280 §5.3.1 that are about a
/// workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Not said.
    #[default]
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// Another certificate took its place.
    Superseded,
    /// The workload is no more.
    CessationOfOperation,
    /// The workload may no longer do what it did.
    PrivilegeWithdrawn,
}

impl Default for Revoked {
    fn default() -> Self {
        Self {
            version: VERSION,
            certificates: Vec::new(),
            identities: Vec::new(),
        }
    }
}

impl Revoked {
    pub(super) fn read(path: &Path) -> Result<Self, CaError> {
        // Not taken for an empty one when it is missing: every list would be signed
        // anew without what it named.
        let text = disk::read(path)?;
        serde_json::from_str(&text)
            .ok()
            .filter(|revoked: &Self| revoked.version == VERSION)
            .ok_or_else(|| CaError::Unreadable {
                path: path.to_owned(),
                expected: "a list of what was revoked (JSON, version 1): restore it from a backup",
            })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), CaError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| CaError::Io {
            action: "encode",
            path: path.to_owned(),
            source: error.into(),
        })?;
        disk::replace(path, &text, disk::PUBLIC)
    }

    pub(super) fn has_identity(&self, identity: &str) -> bool {
        self.identities
            .iter()
            .any(|entry| entry.identity == identity)
    }

    pub(super) fn has_serial(&self, serial: &str) -> bool {
        self.certificates.iter().any(|entry| entry.serial == serial)
    }

    /// Forgets certificates that expired too long ago to matter.
    pub(super) fn forget_expired(&mut self, now: SystemTime) {
        self.certificates
            .retain(|entry| matters(entry.not_after.time(), now));
    }
}

/// How long after its end a certificate can be revoked, and stays on its list: a tunnel
/// outlives the certificate that opened it, and is to be cut all the same.
const OUTLIVED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether revoking a certificate that ends at `not_after` can still cut something.
pub(super) fn matters(not_after: SystemTime, now: SystemTime) -> bool {
    not_after + OUTLIVED >= now
}
