//! What a credential exchanges as a whole: one certificate, checked, and how far
//! its renewal is. Made and read by [`super::Credential`] alone.

use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::store::{Means, renewal};
use crate::identity::{Anchors, IssueError, Issued, KeyId, SpiffeId};
use crate::tls::{ConfigError, Configs, Grounds, HandshakeFailure};

/// One certificate's worth.
pub(super) struct Current {
    pub(super) configs: Configs,
    pub(super) serial: Arc<str>,
    pub(super) issuer: Option<KeyId>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) generation: u64,
}

/// What has become of renewing it.
pub(super) struct Progress {
    pub(super) next_try: SystemTime,
    pub(super) failing_since: Option<SystemTime>,
    pub(super) attempts: u32,
    pub(super) failure: Option<IssueError>,
}

impl Current {
    /// Checks what the authority sent, and that peers would accept it. With it come
    /// the roots that it brings.
    pub(super) fn new(
        id: &SpiffeId,
        issued: Issued,
        grounds: &Arc<Grounds>,
        means: &Means,
    ) -> Result<(Self, Option<Arc<Anchors>>), IssueError> {
        let Issued { svid, bundle } = issued;
        if svid.id() != id {
            return Err(IssueError::OtherIdentity {
                requested: id.clone(),
                certified: svid.id().clone(),
            });
        }
        let unusable = |source| IssueError::Unusable {
            id: id.clone(),
            source: Arc::new(source),
        };
        if let Some(bundle) = &bundle
            && bundle.trust_domain() != id.trust_domain()
        {
            return Err(unusable(ConfigError::OtherBundle {
                own: id.trust_domain().clone(),
                brought: bundle.trust_domain().clone(),
            }));
        }
        let roots = bundle.map(|bundle| Arc::new(Anchors::read(&bundle)));
        let configs = Configs::new(
            &svid,
            Arc::clone(grounds),
            Arc::clone(&means.parameters),
            Arc::clone(&means.clock),
        )
        .map_err(unusable)?;
        match configs.refusal(&means.trust.current(), roots.as_deref()) {
            // The lists are what is wrong then, and they will come: a certificate that
            // was left out would be missed.
            None | Some(ConfigError::Refusable(HandshakeFailure::RevocationUnknown { .. })) => {}
            Some(refusal) => return Err(unusable(refusal)),
        }
        let current = Self {
            configs,
            serial: svid.serial().into(),
            issuer: svid.issuer().cloned(),
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            generation: 1,
        };
        Ok((current, roots))
    }
}

impl Progress {
    pub(super) fn after_success(now: SystemTime, not_after: SystemTime) -> Self {
        Self {
            next_try: renewal::due(now, not_after),
            failing_since: None,
            attempts: 0,
            failure: None,
        }
    }
}
