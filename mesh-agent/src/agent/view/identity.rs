//! Certificates, trust and TLS, as the status tells them.

use std::time::{Duration, SystemTime};

use crate::admin::api::{CertificateStatus, TlsStatus, TrustStatus};
use crate::identity::{RevocationStatus, StaleLists, SvidInfo, SvidStore, TrustStore};
use crate::tls::{self, FipsStatus, ParametersStore};

/// The certificates in use.
pub(super) fn certificates(svids: &SvidStore) -> Vec<CertificateStatus> {
    let certificate = |svid: SvidInfo| CertificateStatus {
        identity: svid.id.to_string(),
        serial: svid.serial.to_string(),
        expires_in_s: seconds_until(svid.not_after),
        source: svid.source.to_string(),
        renewal_in_s: seconds_until(svid.next_try),
        failing_for_s: svid
            .failing_since
            .map(|since| since.elapsed().unwrap_or_default().as_secs()),
        failed_attempts: svid.attempts,
        error: svid.renewal_failure.map(|error| error.to_string()),
    };
    svids.list().into_iter().map(certificate).collect()
}

/// The trust domains, the own one first.
pub(super) fn trust(store: &TrustStore) -> Vec<TrustStatus> {
    let (trust, now) = (store.current(), SystemTime::now());
    let mut domains: Vec<_> = trust
        .domains()
        .map(|domain| {
            let name = domain.bundle.trust_domain();
            let revocation = trust
                .revocation(name, now)
                .unwrap_or(RevocationStatus::NotUsed);
            let (word, until, error) = match revocation {
                RevocationStatus::NotUsed => ("not-used", None, None),
                RevocationStatus::Fresh { until } => ("fresh", until, None),
                RevocationStatus::Stale { since } => ("stale", Some(since), None),
                RevocationStatus::Unreadable(why) => ("unreadable", None, Some(why.to_string())),
            };
            let unusable = trust.unusable_roots(name);
            TrustStatus {
                trust_domain: name.to_string(),
                own: name == store.own(),
                roots: domain.bundle.roots().len() - unusable.len(),
                unusable_roots: unusable.iter().map(ToString::to_string).collect(),
                revocation: word.to_owned(),
                lists_expire_in_s: until.map(seconds_until),
                error,
                refused: matches!(word, "stale" | "unreadable")
                    && trust.stale() == StaleLists::Refuse,
            }
        })
        .collect();
    domains.sort_by(|a, b| (!a.own, &a.trust_domain).cmp(&(!b.own, &b.trust_domain)));
    domains
}

/// The TLS settings in force, and the library's word on them.
pub(super) fn tls(parameters: &ParametersStore) -> TlsStatus {
    let current = parameters.current();
    let settings = current.settings();
    let FipsStatus { built, .. } = tls::fips_status();
    TlsStatus {
        minimum_version: settings.minimum().name().to_owned(),
        cipher_suites: settings.suite_names().map(str::to_owned).collect(),
        key_exchanges: settings.curve_names().map(str::to_owned).collect(),
        fips: current.fips(),
        library: match built {
            true => "rustls on aws-lc-rs, built with the FIPS module".to_owned(),
            false => "rustls on aws-lc-rs, built without the FIPS module".to_owned(),
        },
    }
}

/// Negative once `at` has passed.
pub(super) fn seconds_until(at: SystemTime) -> i64 {
    let signed = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::now()) {
        Ok(left) => signed(left),
        Err(past) => -signed(past.duration()),
    }
}
