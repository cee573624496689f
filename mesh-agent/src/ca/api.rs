//! What goes over the wire between an agent and an authority: Istio's certificate
//! service (istio/api, `security/v1alpha1/ca.proto`) and our own service that tells
//! roots and revocation. Used by [`super::server`] and [`super::client`].

mod trust;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

pub(crate) use trust::certificate;
pub use trust::{TrustMessage, TrustMessageError};

/// Path of Istio's `CreateCertificate`, unary.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Path of our `Watch`, which streams a [`TrustMessage`] now and at every change.
pub const WATCH_TRUST: &str = "/isthmus.ca.v1.Trust/Watch";

/// Field of a request's metadata that names the identity which an agent asks for on
/// behalf of a workload, as Istio's node agents send it.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Asks for a certificate: `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// The request of PKCS #10, in PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wanted life in seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Carries `ImpersonatedIdentity`.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The answer: `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM: the leaf, the intermediates, and last the roots.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// Asks to be told of trust: `isthmus.ca.v1.WatchRequest`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct WatchRequest {}

impl CertificateRequest {
    /// A request on behalf of `identity`, of the authority's own choice of life.
    pub fn new(csr: String, identity: &str) -> Self {
        let identity = Value::from(identity.to_owned());
        Self {
            csr,
            validity_duration: 0,
            metadata: Some(Struct {
                fields: [(IMPERSONATED.to_owned(), identity)].into(),
            }),
        }
    }

    /// The identity that it is for, where it says so: `Some(Err(()))` when what stands
    /// there is no text.
    pub fn impersonated(&self) -> Option<Result<&str, NotText>> {
        let value = self.metadata.as_ref()?.fields.get(IMPERSONATED)?;
        Some(match &value.kind {
            Some(Kind::StringValue(text)) => Ok(text),
            _ => Err(NotText),
        })
    }
}

/// `ImpersonatedIdentity` is there and is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's metadata field {IMPERSONATED} is not a string")]
pub struct NotText;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// What istio/api's `ca.proto` prescribes, byte for byte: fields 1, 3 and 4, and
    /// in the latter a `google.protobuf.Struct` with one string.
    #[test]
    fn the_request_has_istios_encoding() {
        let mut request = CertificateRequest::new("CSR".to_owned(), "spiffe://x");
        request.validity_duration = 300;
        let mut entry = vec![0x0a, 20];
        entry.extend(b"ImpersonatedIdentity");
        entry.extend([0x12, 12, 0x1a, 10]);
        entry.extend(b"spiffe://x");
        let mut expected = vec![0x0a, 3];
        expected.extend(b"CSR");
        expected.extend([0x18, 0xac, 0x02]);
        expected.extend([0x22, entry.len() as u8 + 2, 0x0a, entry.len() as u8]);
        expected.extend(entry);
        assert_eq!(request.encode_to_vec(), expected);
        assert_eq!(request.impersonated(), Some(Ok("spiffe://x")));
    }

    #[test]
    fn an_identity_that_is_no_text_is_noticed() {
        let mut request = CertificateRequest::new(String::new(), "");
        let fields = &mut request.metadata.as_mut().unwrap().fields;
        fields.insert(IMPERSONATED.to_owned(), Value::from(7.0));
        assert_eq!(request.impersonated(), Some(Err(NotText)));
        request.metadata = None;
        assert_eq!(request.impersonated(), None);
    }
}
