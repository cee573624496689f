//! `spec.meshMTLS` of the `MeshConfig`: Istio's words for how TLS is done.

use super::super::object::Origin;
use super::super::problem::Problem;
use super::super::schema::TlsConfig;
use super::MESH_CONFIG;
use crate::tls::{TlsSettings, TlsWords};

/// Reads the settings. While one of them cannot be used, all stay as they are in
/// `last_good`: half of a new setting could be weaker than either.
pub(super) fn tls(
    config: &TlsConfig,
    origin: &Origin,
    last_good: Option<&TlsSettings>,
    problems: &mut Vec<Problem>,
) -> TlsSettings {
    let words = TlsWords {
        minimum: config.min_protocol_version.as_deref(),
        suites: &config.cipher_suites,
        curves: &config.ecdh_curves,
    };
    let errors = match TlsSettings::read(words) {
        Ok(settings) => return settings,
        Err(errors) => errors,
    };
    for error in errors {
        let stays = match last_good {
            Some(_) => "until then the settings in force stay",
            None => "until then the default holds, which is TLS 1.3 only",
        };
        problems.push(Problem::new(
            origin,
            MESH_CONFIG,
            format!("spec.meshMTLS.{}", error.field()),
            error.to_string(),
            format!("{}; {stays}", error.cure()),
        ));
    }
    last_good.cloned().unwrap_or_default()
}
