//! Who calls with what: everything that is refused, over the wire, and in which words.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Rules, Running, soon};
use crate::ca::api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, TrustMessage, WATCH_TRUST,
    WatchRequest,
};
use crate::ca::client::connection::{Anchors, Channel};
use crate::ca::client::files;
use crate::identity::fixtures::id;

pub(super) async fn connection(server: &Running) -> Channel {
    let endpoint = server.settings().endpoint.parse().unwrap();
    let anchors = Anchors {
        roots: files::roots(&server.settings().roots_file).unwrap(),
        lists: Vec::new(),
    };
    let opened = Channel::open(&endpoint, anchors, server.clock.clone());
    soon(opened).await.unwrap()
}

pub(super) async fn channel(server: &Running) -> Grpc<Channel> {
    let origin = server.settings().endpoint.parse().unwrap();
    let mut grpc = Grpc::with_origin(connection(server).await, origin);
    grpc.ready().await.unwrap();
    grpc
}

pub(super) fn with(
    header: Option<&str>,
    message: CertificateRequest,
) -> Request<CertificateRequest> {
    let mut request = Request::new(message);
    if let Some(value) = header {
        request
            .metadata_mut()
            .insert("authorization", value.parse().unwrap());
    }
    request
}

async fn ask(
    server: &Running,
    header: Option<&str>,
    message: CertificateRequest,
) -> Result<CertificateResponse, Status> {
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::new();
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    let mut grpc = channel(server).await;
    let answer = soon(grpc.unary(with(header, message), path, codec)).await;
    answer.map(tonic::Response::into_inner)
}

pub(super) const TOKEN: Option<&str> = Some("Bearer token-of-node-1");

fn csr(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params
}

fn pem(params: &CertificateParams) -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

pub(super) fn web() -> CertificateRequest {
    let uri = id("web").to_string();
    CertificateRequest::new(pem(&csr(&[&uri])), &uri)
}

#[tokio::test]
async fn callers_without_proof_learn_why() {
    let server = Running::start(Rules::default()).await;
    for (header, says) in [
        (None, "no bearer token"),
        (Some("Bearer "), "no bearer token"),
        (Some("Basic dXNlcjpwYXNz"), "no bearer token"),
        (Some("Bearer wrong"), "none that this authority accepts"),
    ] {
        let status = ask(&server, header, web()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{header:?}");
        assert!(status.message().contains(says), "{status}");
    }
    // The scheme's name has no case (RFC 7235 §2.1).
    ask(&server, Some("bearer token-of-node-1"), web())
        .await
        .unwrap();
    let mut grpc = channel(&server).await;
    let path = http::uri::PathAndQuery::from_static(WATCH_TRUST);
    let codec = ProstCodec::<WatchRequest, TrustMessage>::new();
    let watch = grpc.server_streaming(Request::new(WatchRequest {}), path, codec);
    assert_eq!(soon(watch).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn what_a_node_may_not_have_is_denied() {
    let server = Running::start(Rules::default()).await;
    let uri = id("denied").to_string();
    let status = ask(
        &server,
        TOKEN,
        CertificateRequest::new(pem(&csr(&[&uri])), &uri),
    )
    .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("node-1") && status.message().contains(&uri),
        "{status}"
    );
    let foreign = "spiffe://other.example/ns/shop/sa/web";
    let request = CertificateRequest::new(pem(&csr(&[foreign])), foreign);
    let status = ask(&server, TOKEN, request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("cluster.local"), "{status}");
}

/// Each with the code and a word of the reason; the journal gets none of them.
#[tokio::test]
async fn hostile_requests_are_refused_with_a_reason() {
    let server = Running::start(Rules::default()).await;
    let before = server.authority.issued(None, true).unwrap().len();
    let (web, db) = (id("web").to_string(), id("db").to_string());
    let asked = |params: &CertificateParams| CertificateRequest::new(pem(params), &web);
    let mut dns = csr(&[&web]);
    dns.subject_alt_names
        .push(SanType::DnsName("example.com".try_into().unwrap()));
    let good = pem(&csr(&[&web]));
    let tampered = {
        let mut der = ::pem::parse(&good).unwrap().into_contents();
        let last = der.len() - 1;
        der[last] ^= 1;
        ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", der))
    };
    let mut negative = CertificateRequest::new(good.clone(), &web);
    negative.validity_duration = -1;
    let mut unnamed = CertificateRequest::new(pem(&csr(&[&web, &db])), &web);
    unnamed.metadata = None;
    let mut nobody = CertificateRequest::new(pem(&csr(&[])), &web);
    nobody.metadata = None;
    for (what, request) in [
        ("no PEM", CertificateRequest::new("csr".to_owned(), &web)),
        (
            "no DER",
            CertificateRequest::new(
                "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
                    .to_owned(),
                &web,
            ),
        ),
        ("another identity", asked(&csr(&[&db]))),
        ("two identities", asked(&csr(&[&web, &db]))),
        ("no identity", asked(&csr(&[]))),
        ("a DNS name besides", asked(&dns)),
        (
            "a broken signature",
            CertificateRequest::new(tampered, &web),
        ),
        ("a negative life", negative),
        ("two URIs and no name in the metadata", unnamed),
        ("no URI and no name in the metadata", nobody),
        (
            "a name that is no identity",
            CertificateRequest::new(good.clone(), "spiffe://x"),
        ),
    ] {
        let status = ask(&server, TOKEN, request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(!status.message().is_empty(), "{what}");
    }
    assert_eq!(server.authority.issued(None, true).unwrap().len(), before);
}

/// As ztunnel asks without impersonation: the CSR alone says for whom. And as Istio's
/// clients read: PEM in each element, the roots in the last.
#[tokio::test]
async fn a_request_as_istios_own_clients_make_it_is_answered_as_they_expect() {
    let server = Running::start(Rules::default()).await;
    let uri = id("web").to_string();
    let mut request = CertificateRequest::new(pem(&csr(&[&uri])), &uri);
    request.metadata = None;
    request.validity_duration = 3600;
    let answer = ask(&server, TOKEN, request).await.unwrap();
    let roots = answer.cert_chain.last().unwrap();
    assert_eq!(*roots, server.authority.roots_pem().unwrap());
    assert!(answer.cert_chain.len() >= 3, "leaf, intermediate, roots");
    for element in &answer.cert_chain {
        assert!(
            element.starts_with("-----BEGIN CERTIFICATE-----\n"),
            "{element}"
        );
    }
}

#[tokio::test]
async fn an_authorizer_that_fails_is_unavailable_and_keeps_its_cause() {
    let failing = Rules {
        failing: true,
        ..Rules::default()
    };
    let server = Running::start(failing).await;
    let status = ask(&server, TOKEN, web()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.message().contains("secret"), "{status}");
}

#[tokio::test]
async fn methods_and_messages_that_are_not_ours_are_refused() {
    let server = Running::start(Rules::default()).await;
    let mut grpc = channel(&server).await;
    let path = http::uri::PathAndQuery::from_static("/istio.v1.auth.Other/Method");
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::new();
    let status = soon(grpc.unary(with(TOKEN, web()), path, codec))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut long = web();
    long.csr = "x".repeat(65 * 1024);
    let status = ask(&server, TOKEN, long).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}
