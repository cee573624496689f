//! The `CONNECT` request that opens a stream: what we send, and what we take
//! from a peer. The client end writes it, the server end reads it.

use std::net::SocketAddr;

use http::header::{FORWARDED, HeaderMap, HeaderValue};
use http::{Method, Request, Uri, Version, request};

use crate::addr::{ClientAddr, canonical};

use super::{Baggage, TraceParent, format_forwarded, parse_forwarded};

const BAGGAGE: &str = "baggage";
const TRACEPARENT: &str = "traceparent";

/// A connection asked for through a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The destination application's address (`:authority`), in canonical
    /// form: never an IPv4-mapped IPv6 address.
    pub destination: SocketAddr,
    /// The application that asked (`forwarded`). A claim of the peer.
    pub forwarded_for: Option<ClientAddr>,
    /// The workload that asked (`baggage`). A claim of the peer; the peer's
    /// identity is in its certificate.
    pub baggage: Option<Baggage>,
    /// The trace this connection belongs to (`traceparent`).
    pub traceparent: Option<TraceParent>,
}

/// Why a request does not ask for a connection that could be made. All of
/// these are answered with 400. Texts of the peer are shortened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another method than CONNECT.
    #[error("the method is {0}, and only CONNECT is served")]
    Method(String),
    /// An extended CONNECT (RFC 8441), or one with a scheme or a path.
    #[error("the CONNECT has a protocol, scheme or path, which HBONE does not know")]
    NotPlainConnect,
    /// No `:authority`.
    #[error("the CONNECT has no :authority")]
    NoAuthority,
    /// `user@` before the address.
    #[error(":authority {0:?} names a user")]
    UserInfo(String),
    /// An IPv6 zone (`%eth0`), which means nothing on another machine.
    #[error(":authority {0:?} has an IPv6 zone")]
    Zone(String),
    /// An address without a port.
    #[error(":authority {0:?} has no port")]
    NoPort(String),
    /// A port that is not a number from 1 to 65535.
    #[error(":authority {0:?} has no port from 1 to 65535")]
    Port(String),
    /// A host name, or something that is no address at all.
    #[error(":authority {0:?} is not an IP address and port")]
    NotAnAddress(String),
}

impl ConnectRequest {
    /// A request for `destination` with no optional headers.
    pub fn new(destination: SocketAddr) -> Self {
        Self {
            destination: canonical(destination),
            forwarded_for: None,
            baggage: None,
            traceparent: None,
        }
    }

    /// Reads a peer's request. What is optional and cannot be understood is
    /// left out; only the method and the destination can be malformed.
    pub fn from_http(head: &request::Parts) -> Result<Self, Malformed> {
        if head.method != Method::CONNECT {
            return Err(Malformed::Method(shorten(head.method.as_str())));
        }
        let protocol = head.extensions.get::<h2::ext::Protocol>();
        let path = head.uri.path_and_query();
        if protocol.is_some() || head.uri.scheme().is_some() || path.is_some() {
            return Err(Malformed::NotPlainConnect);
        }
        let authority = head.uri.authority().ok_or(Malformed::NoAuthority)?;
        Ok(Self {
            destination: parse_authority(authority.as_str())?,
            forwarded_for: forwarded_for(&head.headers),
            baggage: Baggage::parse(head.headers.get_all(BAGGAGE)),
            traceparent: only(&head.headers, TRACEPARENT).and_then(TraceParent::parse),
        })
    }

    /// The request as it goes on the wire.
    pub fn to_http(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = authority_uri(self.destination);
        let headers = request.headers_mut();
        if let Some(client) = self.forwarded_for {
            insert(headers, FORWARDED.as_str(), &format_forwarded(client));
        }
        if let Some(baggage) = &self.baggage {
            headers.insert(BAGGAGE, baggage.header().clone());
        }
        if let Some(traceparent) = self.traceparent {
            insert(headers, TRACEPARENT, &traceparent.to_string());
        }
        request
    }
}

/// `ip:port` or `[ipv6]:port`, exactly: no name, user, zone or default port.
fn parse_authority(authority: &str) -> Result<SocketAddr, Malformed> {
    let shown = || shorten(authority);
    if authority.contains('@') {
        return Err(Malformed::UserInfo(shown()));
    }
    if authority.contains('%') {
        return Err(Malformed::Zone(shown()));
    }
    let host_end = authority.rfind(']').map_or(0, |end| end + 1);
    let port = match authority[host_end..].rsplit_once(':') {
        Some((_, port)) => port,
        None => return Err(Malformed::NoPort(shown())),
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if !digits || port.starts_with('0') || port.parse::<u16>().is_err() {
        return Err(Malformed::Port(shown()));
    }
    let address: SocketAddr = authority
        .parse()
        .map_err(|_| Malformed::NotAnAddress(shown()))?;
    Ok(canonical(address))
}

/// The first sender's claim, when there are several headers.
fn forwarded_for(headers: &HeaderMap) -> Option<ClientAddr> {
    let value = headers.get(FORWARDED)?.to_str().ok()?;
    parse_forwarded(value)
}

/// The value of a header that may be there only once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn authority_uri(destination: SocketAddr) -> Uri {
    Uri::try_from(destination.to_string())
        .unwrap_or_else(|error| unreachable!("an address and port is always an authority: {error}"))
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // The values are made here, of ASCII; a failure would only lose a header
    // that peers may not rely on.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// At most 64 characters of a peer's text, for errors and logs.
fn shorten(text: &str) -> String {
    const MAX: usize = 64;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
