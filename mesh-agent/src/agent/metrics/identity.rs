//! Certificates and trust, as metrics. All are read at each scrape.

use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::authority::Identities;
use crate::identity::{RevocationStatus, SvidInfo};
use crate::observe::{Registry, Sample};

/// Puts the node's certificates and trust into `registry`.
pub(super) fn register(registry: &Registry, identities: &Arc<Identities>) {
    each_certificate(
        registry,
        identities,
        "isthmus_certificate_seconds_to_expiry",
        "Seconds until the identity's certificate expires and its pods' connections are refused",
        |svid| svid.left.as_secs_f64(),
    );
    each_certificate(
        registry,
        identities,
        "isthmus_certificate_failed_renewals",
        "Attempts at renewing the identity's certificate that failed since the last success",
        |svid| f64::from(svid.attempts),
    );
    let here = Arc::downgrade(identities);
    registry.gauge_at_scrape(
        "isthmus_revocation_current",
        "1 while the trust domain's revocation lists are in date (or it has none), 0 while they are stale or unreadable",
        move || {
            let Some(identities) = here.upgrade() else {
                return Vec::new();
            };
            let (trust, now) = (identities.trust.current(), SystemTime::now());
            let domains = trust.domains();
            domains
                .map(|domain| {
                    let name = domain.bundle.trust_domain();
                    let current = matches!(
                        trust.revocation(name, now),
                        Some(RevocationStatus::NotUsed | RevocationStatus::Fresh { .. })
                    );
                    Sample {
                        labels: vec![("trust_domain", name.to_string())],
                        value: f64::from(u8::from(current)),
                    }
                })
                .collect()
        },
    );
}

fn each_certificate(
    registry: &Registry,
    identities: &Arc<Identities>,
    name: &'static str,
    help: &'static str,
    value: fn(&SvidInfo) -> f64,
) {
    let here = Arc::downgrade(identities);
    registry.named_gauge_at_scrape(name, help, move || {
        let Some(identities) = here.upgrade() else {
            return Vec::new();
        };
        let sample = |svid: SvidInfo| Sample {
            labels: vec![("identity", svid.id.to_string())],
            value: value(&svid),
        };
        identities.svids.list().into_iter().map(sample).collect()
    });
}
