//! The part of `mesh-agent status` on certificates, trust and TLS.

use super::super::{human, table::Kind};
use super::section;
use crate::admin::api::{AuthorityStatus, CertificateStatus, Status, TlsStatus, TrustStatus};

pub(super) fn render(out: &mut String, status: &Status) {
    out.push('\n');
    authority(out, &status.authority);
    tls(out, &status.tls);
    trust(out, &status.trust);
    certificates(out, &status.certificates);
}

fn line(out: &mut String, title: &str, text: &str) {
    out.push_str(&format!("{title:<14}{text}\n"));
}

fn authority(out: &mut String, authority: &AuthorityStatus) {
    let mut text = format!("{}, {}", authority.kind, authority.place);
    if let Some(connected) = authority.connected {
        text.push_str(if connected {
            ", connected"
        } else {
            ", NOT CONNECTED"
        });
    }
    if let Some(ago) = authority.answered_s_ago {
        text.push_str(&format!(", last answered {} ago", human::seconds(ago)));
    }
    line(out, "authority", &text);
    if let Some(from) = &authority.trust_from {
        line(out, "", &format!("trust comes from {from}"));
    }
    if let Some(files) = &authority.files {
        line(out, "", &format!("certificates in {files} go before it"));
    }
    if let Some(error) = &authority.error {
        line(out, "", error);
    }
}

fn tls(out: &mut String, tls: &TlsStatus) {
    line(out, "tls", &format!("{} or later", tls.minimum_version));
    line(out, "", &tls.cipher_suites.join(", "));
    line(out, "", &tls.key_exchanges.join(", "));
    let mode = if tls.fips {
        "FIPS mode"
    } else {
        "not in FIPS mode"
    };
    line(out, "", &format!("{}, {mode}", tls.library));
}

fn trust(out: &mut String, domains: &[TrustStatus]) {
    let rows: Vec<_> = domains
        .iter()
        .map(|domain| {
            let mut revocation = domain.revocation.clone();
            if domain.refused {
                revocation.push_str(", REFUSED");
            }
            vec![
                domain.trust_domain.clone(),
                if domain.own { "own" } else { "foreign" }.to_owned(),
                domain.roots.to_string(),
                revocation,
                domain
                    .lists_expire_in_s
                    .map_or_else(|| "-".to_owned(), human::until),
            ]
        })
        .collect();
    let columns = [
        ("TRUST DOMAIN", Kind::Elastic),
        ("WHOSE", Kind::Whole),
        ("ROOTS", Kind::Number),
        ("REVOCATION LISTS", Kind::Whole),
        ("EXPIRE IN", Kind::Number),
    ];
    section(out, &columns, &rows);
    for domain in domains {
        for fault in domain.unusable_roots.iter().chain(&domain.error) {
            out.push_str(&format!("{}: {fault}\n", domain.trust_domain));
        }
    }
}

fn certificates(out: &mut String, certificates: &[CertificateStatus]) {
    let rows: Vec<_> = certificates
        .iter()
        .map(|certificate| {
            vec![
                certificate.identity.clone(),
                certificate.serial.clone(),
                human::until(certificate.expires_in_s),
                human::until(certificate.renewal_in_s),
            ]
        })
        .collect();
    let columns = [
        ("CERTIFICATE", Kind::Elastic),
        ("SERIAL", Kind::Elastic),
        ("EXPIRES IN", Kind::Number),
        ("RENEWED IN", Kind::Number),
    ];
    section(out, &columns, &rows);
    for certificate in certificates {
        if let (Some(since), Some(error)) = (certificate.failing_for_s, &certificate.error) {
            out.push_str(&format!(
                "{}: not renewed for {} ({} attempts), OUTAGE IN {}: {error}\n",
                certificate.identity,
                human::seconds(since),
                certificate.failed_attempts,
                human::until(certificate.expires_in_s),
            ));
        }
    }
}
