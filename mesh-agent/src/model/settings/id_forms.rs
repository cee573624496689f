//! `spiffeIdTemplate` of the `MeshConfig`: the form of the SPIFFE IDs of its own trust domain,
//! and of other meshes in `caCertificates`. Called by [`settings`](super::settings()).

use super::super::object::Origin;
use super::super::problem::Problem;
use super::super::schema::MeshConfigSpec;
use super::{MESH_CONFIG, MeshSettings};
use crate::identity::{IdForms, IdTemplate, TrustDomain};

/// Reads the templates. A domain whose template cannot be used keeps the one in force, if
/// there is one; else its IDs are of Istio's form, and others are refused.
pub(super) fn id_forms(
    spec: &MeshConfigSpec,
    settings: &MeshSettings,
    last_good: Option<&MeshSettings>,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) -> IdForms {
    let mut forms = IdForms::default();
    let mut report = |field: String, message: String| {
        let cure = "correct it; until then its trust domains keep the form in force";
        problems.push(Problem::new(origin, MESH_CONFIG, field, message, cure));
    };
    let in_force = |domain: &TrustDomain| {
        let template = last_good?.id_forms.template(domain)?;
        Some(IdTemplate::clone(template))
    };
    if let Some(text) = &spec.spiffe_id_template {
        let own = &settings.trust_domain;
        let template = text.parse::<IdTemplate>();
        if let Err(error) = &template {
            report("spec.spiffeIdTemplate".to_owned(), error.to_string());
        }
        if let Some(template) = template.ok().or_else(|| in_force(own)) {
            forms.set(own.clone(), template);
        }
    }
    let mut seen: Vec<(TrustDomain, Option<&str>)> = Vec::new();
    for (i, entry) in spec.ca_certificates.iter().enumerate() {
        let text = entry.spiffe_id_template.as_deref();
        let field = || format!("spec.caCertificates[{i}].spiffeIdTemplate");
        let template = text.map(str::parse::<IdTemplate>);
        if let Some(Err(error)) = &template {
            report(field(), error.to_string());
        }
        let names = entry.trust_domains.iter();
        let names = names.filter_map(|name| TrustDomain::new(name).ok());
        for name in names.filter(|name| *name != settings.trust_domain) {
            match seen.iter().find(|(seen, _)| *seen == name) {
                Some((_, first)) if *first != text => {
                    let message = format!("another entry gives {name} another form");
                    report(field(), message);
                    continue;
                }
                Some(_) => continue,
                None => seen.push((name.clone(), text)),
            }
            let found = match &template {
                None => None,
                Some(Ok(template)) => Some(template.clone()),
                Some(Err(_)) => in_force(&name),
            };
            if let Some(template) = found {
                forms.set(name, template);
            }
        }
    }
    forms
}
