//! Judging what stands again when trust changes: connections whose peer was revoked,
//! or whose root or trust domain is no longer trusted, are cut. Called by the agent
//! each time the [`TrustStore`](crate::identity::TrustStore) has news.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Shared, Workers};
use crate::identity::Trust;
use crate::observe::Reason;
use crate::tls::{HandshakeFailure, Session};

/// Cuts every connection whose peer the trust in force no longer supports, then the
/// tunnels that carried them, and says how many connections. Each is reset at both ends
/// and logged with its reason.
pub async fn judge(shared: &Shared, workers: &Workers) -> usize {
    let trust = shared.trust.current();
    let cut = cut_connections(shared, &trust);
    shared.judged.send_replace(trust.number());
    workers.judge().await;
    cut
}

/// Looks at each tunnel once, however many connections it carries.
fn cut_connections(shared: &Shared, trust: &Trust) -> usize {
    let (now, mut looked_at) = (SystemTime::now(), HashMap::new());
    shared.observer.cut_judged(|connection| {
        let session = connection.session()?;
        let look = |session: &Arc<Session>| session.confirm(trust, now).err().map(reason);
        looked_at
            .entry(Arc::as_ptr(&session))
            // Holding it keeps its address from being another's.
            .or_insert_with(|| (look(&session), session))
            .0
    })
}

fn reason(failure: HandshakeFailure) -> Reason {
    match failure {
        HandshakeFailure::Revoked { .. } => Reason::PeerRevoked,
        _ => Reason::PeerUntrusted,
    }
}
