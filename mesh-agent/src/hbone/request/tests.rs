//! What is taken as a request, and what is refused.

use http::{HeaderValue, Method, Request, Uri, request::Parts};

use super::{ConnectRequest, Malformed, parse_authority};

fn head(method: &str, uri: Uri) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri;
    request.into_parts().0
}

fn connect(destination: &'static str) -> Parts {
    head("CONNECT", Uri::from_static(destination))
}

#[test]
fn addresses_are_taken_in_canonical_form() {
    for (uri, destination) in [
        ("10.0.0.2:80", "10.0.0.2:80"),
        ("10.0.0.2:65535", "10.0.0.2:65535"),
        ("[fd00::2]:15008", "[fd00::2]:15008"),
        ("[FD00:0:0::2]:80", "[fd00::2]:80"),
        ("[::ffff:10.0.0.2]:80", "10.0.0.2:80"),
    ] {
        let request = ConnectRequest::from_http(&connect(uri)).unwrap();
        assert_eq!(request, ConnectRequest::new(destination.parse().unwrap()));
        assert_eq!(request.destination.to_string(), destination);
    }
}

#[test]
fn only_a_plain_connect_is_served() {
    for method in ["GET", "POST", "OPTIONS", "connect", "CONNECT2"] {
        let error = ConnectRequest::from_http(&head(method, Uri::from_static("10.0.0.2:80")));
        assert_eq!(error, Err(Malformed::Method(method.to_owned())));
    }
    for uri in ["http://10.0.0.2:80/", "/", "*"] {
        let error = ConnectRequest::from_http(&connect(uri));
        assert_eq!(error, Err(Malformed::NotPlainConnect), "{uri}");
    }
    let mut extended = connect("10.0.0.2:80");
    let protocol = h2::ext::Protocol::from_static("websocket");
    extended.extensions.insert(protocol);
    let error = ConnectRequest::from_http(&extended);
    assert_eq!(error, Err(Malformed::NotPlainConnect));
    let nowhere = ConnectRequest::from_http(&head("CONNECT", Uri::default()));
    assert!(nowhere.is_err());
}

#[test]
fn an_authority_is_an_address_and_a_port_or_malformed() {
    type Kind = fn(String) -> Malformed;
    let table: [(Kind, &[&str]); 5] = [
        (
            Malformed::UserInfo,
            &["root@10.0.0.2:80", "root:pw@10.0.0.2:80", "@10.0.0.2:80"],
        ),
        (
            Malformed::Zone,
            &["[fe80::1%eth0]:80", "[fe80::1%251]:80", "[fe80::1%3]:80"],
        ),
        (
            Malformed::NoPort,
            &["", "10.0.0.2", "[fd00::2]", "web", "[fd00::2]80"],
        ),
        (
            Malformed::Port,
            &[
                "10.0.0.2:",
                "10.0.0.2:0",
                "10.0.0.2:00",
                "10.0.0.2:080",
                "10.0.0.2:65536",
                "10.0.0.2:http",
                "10.0.0.2:+80",
                "10.0.0.2:-1",
                "10.0.0.2:8 0",
                "10.0.0.2:80/",
                "[fd00::2]:0",
                "[fd00::2]:",
            ],
        ),
        (
            Malformed::NotAnAddress,
            &[
                "web.shop.svc.cluster.local:80",
                "localhost:80",
                "*:80",
                ":80",
                "10.0.2:80",
                "010.0.0.2:80",
                "0x0a000002:80",
                "167772162:80",
                "10.0.0.256:80",
                "10.0.0.2:80:80",
                "[10.0.0.2]:80",
                "[fd00::2::1]:80",
                "[fd00::2:80",
                "fd00::2:80",
                "[]:80",
                "[fd00::2]x:80",
            ],
        ),
    ];
    for (kind, authorities) in table {
        for authority in authorities {
            let error = parse_authority(authority).unwrap_err();
            assert_eq!(error, kind((*authority).to_owned()));
        }
    }
}

#[test]
fn a_long_text_of_the_peer_is_shortened() {
    let error = parse_authority(&"é".repeat(5000)).unwrap_err();
    assert!(error.to_string().chars().count() < 120, "{error}");
}

#[test]
fn optional_headers_that_are_garbled_are_left_out() {
    let mut head = connect("10.0.0.2:80");
    let bytes = HeaderValue::from_bytes(b"\xff\xfe=\x80").unwrap();
    for name in ["forwarded", "baggage", "traceparent"] {
        head.headers.insert(name, bytes.clone());
    }
    let request = ConnectRequest::from_http(&head).unwrap();
    assert_eq!(request, ConnectRequest::new("10.0.0.2:80".parse().unwrap()));
}

#[test]
fn two_traces_are_none() {
    let mut head = connect("10.0.0.2:80");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = HeaderValue::from_static(trace);
    head.headers.append("traceparent", trace.clone());
    let one = ConnectRequest::from_http(&head).unwrap();
    assert!(one.traceparent.is_some());
    head.headers.append("traceparent", trace);
    let two = ConnectRequest::from_http(&head).unwrap();
    assert_eq!(two.traceparent, None);
}

#[test]
fn what_is_written_is_read_again() {
    for destination in ["10.0.0.2:80", "[fd00::2]:80"] {
        let request = ConnectRequest::new(destination.parse().unwrap());
        let (head, ()) = request.to_http().into_parts();
        assert_eq!(head.method, Method::CONNECT);
        assert_eq!(head.uri.to_string(), destination);
        assert_eq!(ConnectRequest::from_http(&head), Ok(request));
    }
}
