//! Judging what stands again when trust changes: connections whose peer was revoked,
//! or whose root or trust domain is no longer trusted, are cut. Called by the agent
//! each time the [`TrustStore`](crate::identity::TrustStore) has news.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Shared, Workers};
use crate::observe::Reason;
use crate::tls::{HandshakeFailure, Session};

/// Cuts every connection whose peer the trust in force no longer supports, then the
/// tunnels that carried them, and says how many connections. Each is reset at both ends
/// and logged with its reason.
pub async fn judge(shared: &Shared, workers: &Workers) -> usize {
    let trust = shared.trust.current();
    // One look at each tunnel, however many streams it carries.
    let mut looked_at = HashMap::new();
    let cut = shared.observer.cut_judged(|connection| {
        let session = connection.session()?;
        let verdict = |session: &Arc<_>| Session::confirm(session, &trust).err().map(reason);
        looked_at
            .entry(Arc::as_ptr(&session))
            .or_insert_with(|| (verdict(&session), session))
            .0
    });
    shared.judged.send_replace(trust.number());
    workers.judge().await;
    cut
}

fn reason(failure: HandshakeFailure) -> Reason {
    match failure {
        HandshakeFailure::Revoked { .. } => Reason::PeerRevoked,
        _ => Reason::PeerUntrusted,
    }
}
