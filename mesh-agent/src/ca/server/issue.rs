//! `CreateCertificate`: from a request to a certificate, or to a reason why not.
//! Called by [`super::grpc`] for callers that are known.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use tonic::Status;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::blocking;
use super::grpc::{Reason, Service};
use crate::ca::api::{self, CertificateRequest, CertificateResponse};
use crate::ca::{Fault, Requester, SignError, Signed};
use crate::identity::{SpiffeId, display_time};

/// Answers one request, and writes the one line about it.
pub(super) async fn issue(
    service: &Service,
    requester: Requester,
    peer: SocketAddr,
    request: CertificateRequest,
) -> Result<CertificateResponse, Status> {
    let node = requester.node.clone();
    let mut wanted = None;
    let outcome = certify(service, requester, request, &mut wanted).await;
    let identity = wanted.map(|id| id.to_string()).unwrap_or_default();
    match outcome {
        Ok(signed) => {
            let not_after = display_time(signed.not_after);
            tracing::info!(%node, identity, serial = %signed.serial, not_after, %peer, "certificate issued");
            Ok(answer(&signed))
        }
        Err(refusal) => {
            tracing::warn!(%node, identity, %peer, reason = %refusal.reason, "certificate denied");
            Err(refusal.status)
        }
    }
}

/// What the caller is told, and what the log is.
struct Refusal {
    status: Status,
    reason: String,
}

async fn certify(
    service: &Service,
    requester: Requester,
    request: CertificateRequest,
    wanted: &mut Option<SpiffeId>,
) -> Result<Signed, Refusal> {
    let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
        .map_err(|_| Status::invalid_argument("csr is not a certificate request in PEM"))?;
    let id = identity(&request, &csr)?;
    *wanted = Some(id.clone());
    let authorized = service.authorizer.authorize(&requester, &id).await;
    authorized.map_err(|denial| Refusal {
        status: Status::from(&denial),
        reason: Reason(&denial).to_string(),
    })?;
    let lifetime = lifetime(&request)?;
    let _turn = service.signing.acquire().await;
    let signed = blocking(&service.authority, move |ca| {
        ca.sign(&csr, &id, &requester, lifetime)
    });
    match signed.await {
        Ok(Ok(signed)) => Ok(signed),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(error) => Err(Refusal {
            status: Status::unavailable("the authority is shutting down"),
            reason: error.to_string(),
        }),
    }
}

/// Which identity is wanted: the one that the metadata names, or else the CSR's.
fn identity(request: &CertificateRequest, csr: &[u8]) -> Result<SpiffeId, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let id = match request.impersonated() {
        Some(named) => named.map_err(|error| invalid(&error))?.parse(),
        None => only_uri(csr)?.parse(),
    };
    id.map_err(|error| invalid(&error))
}

/// The only URI that a CSR asks for. All else about the CSR is for the authority to judge.
fn only_uri(csr: &[u8]) -> Result<String, Status> {
    let malformed = || Status::invalid_argument("csr is not PKCS #10 in DER");
    let (_, csr) = X509CertificationRequest::from_der(csr).map_err(|_| malformed())?;
    let mut uris = Vec::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }));
        }
    }
    match <[String; 1]>::try_from(uris) {
        Ok([uri]) => Ok(uri),
        Err(uris) => Err(Status::invalid_argument(format!(
            "csr has {} URI subject alternative names: exactly one must name the identity",
            uris.len()
        ))),
    }
}

fn lifetime(request: &CertificateRequest) -> Result<Option<Duration>, Status> {
    match u64::try_from(request.validity_duration) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Status::invalid_argument("validity_duration is negative")),
    }
}

/// The leaf, the intermediates, and as the last element all roots: there Istio's
/// clients look for what to trust.
fn answer(signed: &Signed) -> CertificateResponse {
    let mut cert_chain: Vec<_> = signed
        .chain
        .iter()
        .map(|der| api::certificate(der))
        .collect();
    cert_chain.push(
        signed
            .roots
            .iter()
            .map(|der| api::certificate(der))
            .collect(),
    );
    CertificateResponse { cert_chain }
}

fn refusal(error: &SignError) -> Refusal {
    let reason = error.to_string();
    let status = match error.fault() {
        Fault::Request => Status::invalid_argument(reason.clone()),
        Fault::Denied => Status::permission_denied(reason.clone()),
        // Its text names files of ours.
        Fault::Authority => {
            Status::unavailable("the authority cannot sign at the moment; its log says why")
        }
    };
    Refusal { status, reason }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self {
            reason: status.message().to_owned(),
            status,
        }
    }
}
