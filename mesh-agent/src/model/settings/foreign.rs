//! `spec.caCertificates` of the `MeshConfig`: what vouches for the workloads of
//! other meshes, one bundle for each trust domain.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::object::Origin;
use super::super::problem::Problem;
use super::super::schema::CertificateData;
use super::{MESH_CONFIG, MeshSettings};
use crate::identity::{
    DomainTrust, PemError, Revocation, TrustBundle, TrustDomain, pem, subject_and_end,
};

/// Reads the bundles, ordered by trust domain; several for one domain add up. A
/// domain of which something cannot be used stays as it is in `last_good`.
pub(super) fn foreign(
    entries: &[CertificateData],
    own: &TrustDomain,
    origin: &Origin,
    last_good: &[DomainTrust],
    problems: &mut Vec<Problem>,
) -> Vec<DomainTrust> {
    let mut report = |field: String, message: String, cure: &str| {
        problems.push(Problem::new(origin, MESH_CONFIG, field, message, cure));
    };
    let mut domains: BTreeMap<TrustDomain, Parts> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = |field: &str| format!("spec.caCertificates[{index}].{field}");
        let names = names(entry, own, &at, &mut report);
        let roots = pem::roots(entry.pem.as_bytes()).map_err(|error| {
            let message = said_of(&error, "the roots of the other mesh");
            report(
                at("pem"),
                message,
                &cure(
                    &error,
                    "its root certificates, as `mesh-agent ca bundle` prints them",
                ),
            );
        });
        let lists = entry.crl.as_deref().map(|text| {
            pem::revocation_lists(text.as_bytes()).map_err(|error| {
                let message = said_of(&error, "what the other mesh has revoked");
                report(
                    at("crl"),
                    message.clone(),
                    &cure(&error, "its revocation lists"),
                );
                message
            })
        });
        for name in names {
            let parts = domains.entry(name).or_default();
            match &roots {
                Ok(roots) => parts.roots.extend(roots.iter().cloned()),
                Err(()) => parts.broken = true,
            }
            match &lists {
                Some(Ok(lists)) => parts.lists.extend(lists.iter().cloned()),
                Some(Err(message)) => parts.unreadable = Some(message.as_str().into()),
                None => {}
            }
        }
    }
    let in_force = |name: &TrustDomain| {
        let mut all = last_good.iter();
        all.find(|it| it.bundle.trust_domain() == name).cloned()
    };
    let settled = domains.into_iter().filter_map(|(name, parts)| {
        if parts.broken || parts.unreadable.is_some() {
            in_force(&name).or_else(|| parts.trust(name))
        } else {
            parts.trust(name)
        }
    });
    settled.collect()
}

/// What several entries say of one trust domain.
#[derive(Default)]
struct Parts {
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
    lists: Vec<rustls::pki_types::CertificateRevocationListDer<'static>>,
    /// Some roots could not be read.
    broken: bool,
    /// Why some lists could not be read.
    unreadable: Option<std::sync::Arc<str>>,
}

impl Parts {
    /// Nothing where a root could not be read: half of a bundle would refuse some
    /// of the domain's workloads for no reason that they show.
    fn trust(self, name: TrustDomain) -> Option<DomainTrust> {
        if self.broken {
            return None;
        }
        let revocation = match self.unreadable {
            Some(why) => Revocation::Unreadable(why),
            None if self.lists.is_empty() => Revocation::NotUsed,
            None => Revocation::Lists(self.lists),
        };
        let mut roots = Vec::with_capacity(self.roots.len());
        for root in self.roots {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Some(DomainTrust {
            bundle: TrustBundle::new(name, roots),
            revocation,
        })
    }
}

/// The trust domains of an entry that can be used.
fn names(
    entry: &CertificateData,
    own: &TrustDomain,
    at: &impl Fn(&str) -> String,
    report: &mut impl FnMut(String, String, &str),
) -> Vec<TrustDomain> {
    if entry.trust_domains.is_empty() {
        report(
            at("trustDomains"),
            "the certificates are for no trust domain, so they have no effect".to_owned(),
            "name the trust domains of the other mesh",
        );
    }
    let mut names = Vec::new();
    for (i, text) in entry.trust_domains.iter().enumerate() {
        let field = at(&format!("trustDomains[{i}]"));
        match TrustDomain::new(text) {
            Ok(name) if name == *own => report(
                field,
                format!(
                    "{name} is this mesh's own trust domain, whose roots its own authority tells"
                ),
                "remove it; here are the trust domains of other meshes",
            ),
            Ok(name) => names.push(name),
            Err(error) => report(
                field,
                error.to_string(),
                "correct it; until then it has no effect",
            ),
        }
    }
    names
}

fn said_of(error: &PemError, what: &str) -> String {
    format!("{what} cannot be read: {error}")
}

fn cure(error: &PemError, wanted: &str) -> String {
    let stays = "until then its trust domains stay as they are in force";
    match error {
        PemError::Key => {
            format!("take the key out, and replace it, since others may have read it; {stays}")
        }
        _ => format!("write {wanted}; {stays}"),
    }
}

/// Says which roots have expired `now`. They stay in force: whether a root's end
/// counts is for the verifier, and a mesh may live on the other roots.
pub(in crate::model) fn expired(
    mesh: &MeshSettings,
    origin: &Origin,
    now: SystemTime,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for domain in &mesh.foreign {
        for root in domain.bundle.roots() {
            // It was read when the settings were.
            let Ok((subject, end)) = subject_and_end(root) else {
                continue;
            };
            if end < now {
                problems.push(Problem::new(
                    origin,
                    MESH_CONFIG,
                    "spec.caCertificates",
                    format!(
                        "the root {subject:?} of {} has expired",
                        domain.bundle.trust_domain()
                    ),
                    "remove it, and add the root that the other mesh uses now",
                ));
            }
        }
    }
    problems
}
