//! What each fuzz target does with its bytes. The targets run these, and so do
//! the ordinary tests, over the seeds and their mutations.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use mesh_agent::ca::check_request;
use mesh_agent::hbone::{
    ConnectRequest, Refusal, TraceParent, TunnelSettings, format_forwarded, parse_forwarded, server,
};
use mesh_agent::identity::{IdForms, IdTemplate, SpiffeId, TrustDomain, leaf_identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Lines: method, URI, then headers. What is taken is in canonical form and
/// survives being written and read again.
pub fn connect_request(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let method = lines.next().and_then(|line| Method::from_bytes(line).ok());
    let uri = lines.next().and_then(|line| Uri::try_from(line).ok());
    let (Some(method), Some(uri)) = (method, uri) else {
        return;
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for line in lines {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().and_then(|n| HeaderName::from_bytes(n).ok());
        let value = parts.next().map(<[u8]>::trim_ascii);
        let value = value.and_then(|v| HeaderValue::from_bytes(v).ok());
        if let (Some(name), Some(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    take(request);
}

fn take(request: Request<()>) {
    let (head, ()) = request.into_parts();
    match ConnectRequest::from_http(&head) {
        Ok(request) => {
            let destination = request.destination;
            assert_eq!(head.method, Method::CONNECT);
            assert_ne!(destination.port(), 0);
            assert_eq!(destination, mesh_agent::addr::canonical(destination));
            let (written, ()) = request.to_http().into_parts();
            assert_eq!(ConnectRequest::from_http(&written), Ok(request));
        }
        Err(error) => assert!(error.to_string().len() < 1024),
    }
}

/// An address that was found survives being written and read again.
pub fn forwarded(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(client) = parse_forwarded(text) {
        assert_eq!(parse_forwarded(&format_forwarded(client)), Some(client));
    }
}

/// A header of its own for each line.
pub fn baggage(data: &[u8]) {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_static("10.0.0.2:80");
    for line in data.split(|&byte| byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.headers_mut().append("baggage", value);
        }
    }
    take(request);
}

/// What was read survives being written and read again.
pub fn traceparent(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(trace) = TraceParent::parse(text) {
        assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
        assert_ne!(trace.trace_id(), 0);
    }
}

/// What was taken is written as it was read.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
    }
    let mut forms = IdForms::default();
    for (domain, template) in [
        ("a", "/k8s/{namespace}/x-{serviceAccount}.y/{podName}"),
        ("b", "/{serviceAccount}/{namespace}"),
    ] {
        let (domain, template) = (TrustDomain::new(domain), template.parse());
        if let (Ok(domain), Ok(template)) = (domain, template) {
            forms.set(domain, template);
        }
    }
    for text in [
        text.to_owned(),
        format!("spiffe://a/k8s/{text}"),
        format!("spiffe://b/{text}"),
    ] {
        if let Ok(id) = forms.parse(&text) {
            assert_eq!(id.to_string(), text);
        }
    }
    if let Ok(template) = text.parse::<IdTemplate>() {
        assert_eq!(template.to_string(), text);
    }
}

/// A server gets the bytes, after a preface if the first is odd, and the end of
/// input. It ends without waiting for any clock but its own short ones.
pub fn tunnel_server(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let preface: &[u8] = match first % 2 {
        1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _ => b"",
    };
    let bytes = [preface, rest].concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(near);
    let attack = async {
        // The server may hang up at any byte.
        let _ = write.write_all(&bytes).await;
        let _ = write.shutdown().await;
    };
    let drain = async {
        let mut sink = [0; 4096];
        while read.read(&mut sink).await.is_ok_and(|len| len > 0) {}
    };
    let all = async { tokio::join!(attack, drain, serve(far, bytes.len())) };
    let limit = Duration::from_secs(3600);
    runtime
        .block_on(async { tokio::time::timeout(limit, all).await })
        .expect("the server goes on for ever");
}

/// Accepts every other request and refuses the rest.
async fn serve(io: tokio::io::DuplexStream, len: usize) {
    let Ok(mut server) = server::serve(io, &TunnelSettings::default()).await else {
        return;
    };
    let mut asked = 0;
    let mut streams = Vec::new();
    while let Some(Ok(incoming)) = server.accept().await {
        asked += 1;
        if incoming.request.is_err() {
            incoming.refuse(Refusal::BadRequest);
        } else if asked % 2 == 0 {
            incoming.refuse(Refusal::Unavailable);
        } else {
            streams.extend(incoming.accept());
        }
    }
    // A request is a frame at least.
    assert!(asked <= len / 9);
}

/// A peer's leaf certificate, in DER. Whatever identity is read from it can be
/// written and read again.
pub fn leaf_certificate(data: &[u8]) {
    if let Ok(id) = leaf_identity(data) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// A certificate request, in DER. What is taken is a key and no more: the request
/// says nothing else that would come into the certificate.
pub fn certificate_request(data: &[u8]) {
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let _ = check_request(data, &web.parse().expect("an identity"));
}
