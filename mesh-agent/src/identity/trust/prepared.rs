//! Roots and revocation lists as handshakes use them: read once when they come into
//! force, not once per handshake. Made by the trust store, and for certificates that
//! bring their own roots; used by the verifiers of [`crate::tls`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use x509_parser::prelude::{CertificateRevocationList, FromDer};
use x509_parser::time::ASN1Time;

use super::{KeyId, Revocation, RevocationStatus};
use crate::identity::{TrustBundle, TrustDomain, leaf};

/// The roots of one trust domain.
pub(crate) struct Anchors {
    anchors: Vec<TrustAnchor<'static>>,
    unusable: Vec<Arc<str>>,
}

/// What one trust domain has revoked.
pub(crate) enum Lists {
    NotUsed,
    /// The newest of each issuer, and what of it could not be read.
    Read {
        lists: Vec<List>,
        fault: Option<Arc<str>>,
    },
    Unreadable(Arc<str>),
}

/// One revocation list.
pub(crate) struct List {
    pub(crate) crl: CertRevocationList<'static>,
    /// Whose list it is; several issuers may have one name.
    issuer: Option<KeyId>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
}

impl Anchors {
    pub(crate) fn read(bundle: &TrustBundle) -> Self {
        let (mut anchors, mut unusable) = (Vec::new(), Vec::new());
        for (place, root) in bundle.roots().iter().enumerate() {
            let anchor = anchor_from_trusted_cert(root).map_err(|error| error.to_string());
            match anchor.and_then(|anchor| pinned(root, bundle.trust_domain()).map(|()| anchor)) {
                Ok(anchor) => anchors.push(anchor.to_owned()),
                Err(error) => unusable.push(format!("root {place}: {error}").into()),
            }
        }
        Self { anchors, unusable }
    }

    pub(crate) fn all(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn unusable(&self) -> &[Arc<str>] {
        &self.unusable
    }
}

/// Checks an anchor that is no root: an intermediate that is pinned, so that only what it
/// signs is trusted and not what its root signs besides. A self-signed root is taken as it
/// is: meshes that share one have the URI of the mesh that made it.
fn pinned(anchor: &CertificateDer<'_>, domain: &TrustDomain) -> Result<(), String> {
    let Ok(certificate) = leaf::parse(anchor) else {
        // A root of version 1, which has no names but its subject.
        return Ok(());
    };
    if certificate.subject() == certificate.issuer() {
        return Ok(());
    }
    if !certificate.is_ca() {
        return Err("it is neither a root nor an intermediate (CA:TRUE)".to_owned());
    }
    match leaf::bound_elsewhere(anchor, domain) {
        None => Ok(()),
        Some(uri) => Err(format!(
            "it is the intermediate of {uri}, which does not vouch for {domain}"
        )),
    }
}

impl Lists {
    pub(crate) fn read(told: &Revocation) -> Self {
        let told = match told {
            Revocation::NotUsed => return Self::NotUsed,
            Revocation::Unreadable(why) => return Self::Unreadable(Arc::clone(why)),
            Revocation::Lists(lists) => lists,
        };
        let (mut lists, mut faults) = (Vec::new(), Vec::new());
        for (place, der) in told.iter().enumerate() {
            match List::read(der) {
                Ok(list) => lists.push(list),
                Err(why) => faults.push(format!("revocation list {place}: {why}")),
            }
        }
        lists.sort_by_key(|list: &List| std::cmp::Reverse(list.this_update));
        let mut newest: Vec<List> = Vec::new();
        for list in lists {
            if !newest
                .iter()
                .any(|known| known.is_of_the_same_issuer(&list))
            {
                newest.push(list);
            }
        }
        let fault = (!faults.is_empty()).then(|| faults.join("; ").into());
        Self::Read {
            lists: newest,
            fault,
        }
    }

    /// How well it is known at `now` what was revoked.
    pub(crate) fn status(&self, now: SystemTime) -> RevocationStatus {
        let (lists, fault) = match self {
            Self::NotUsed => return RevocationStatus::NotUsed,
            Self::Unreadable(why) => return RevocationStatus::Unreadable(Arc::clone(why)),
            Self::Read { lists, fault } => (lists, fault),
        };
        if let Some(why) = fault {
            return RevocationStatus::Unreadable(Arc::clone(why));
        }
        match lists.iter().filter_map(|list| list.next_update).min() {
            Some(since) if since < now => RevocationStatus::Stale { since },
            until => RevocationStatus::Fresh { until },
        }
    }
}

impl List {
    /// Whether this list speaks for certificates of the issuer with that key, as
    /// far as both name it.
    pub(crate) fn is_of(&self, issuer: Option<&KeyId>) -> bool {
        match (&self.issuer, issuer) {
            (Some(list), Some(certificate)) => list == certificate,
            _ => true,
        }
    }

    /// Since when the list is out of date at `now`.
    pub(crate) fn stale_since(&self, now: SystemTime) -> Option<SystemTime> {
        self.next_update.filter(|next| *next < now)
    }

    fn is_of_the_same_issuer(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.crl.issuer() == other.crl.issuer()
            && self.crl.issuing_distribution_point() == other.crl.issuing_distribution_point()
    }

    fn read(der: &CertificateRevocationListDer<'_>) -> Result<Self, String> {
        let crl = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        // The verifier's own reader keeps neither the times nor the issuer's key.
        let (_, parsed) = CertificateRevocationList::from_der(der)
            .map_err(|_| "not a certificate revocation list in DER".to_owned())?;
        let issuer = leaf::authority_key(parsed.extensions());
        Ok(Self {
            crl: crl.into(),
            issuer,
            this_update: system_time(parsed.last_update()),
            next_update: parsed.next_update().map(system_time),
        })
    }
}

/// What the type cannot express lies before 1970, where no list of ours is from.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchors")
            .field("usable", &self.anchors.len())
            .field("unusable", &self.unusable)
            .finish()
    }
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUsed => f.write_str("NotUsed"),
            Self::Unreadable(why) => f.debug_tuple("Unreadable").field(why).finish(),
            Self::Read { lists, fault } => f
                .debug_struct("Read")
                .field("lists", &lists.len())
                .field("fault", fault)
                .finish(),
        }
    }
}
