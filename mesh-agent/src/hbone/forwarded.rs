//! The `forwarded` header (RFC 7239), by which a tunnel tells the address of
//! the application that asked. The request reads and writes it.

use std::net::SocketAddr;

use crate::addr::{ClientAddr, canonical};

/// Longest header value that is looked at, in bytes.
const MAX_LEN: usize = 1024;

/// `for="ip:port"`, as ztunnel writes it; IPv6 as `for="[ip]:port"`.
pub fn format_forwarded(client: ClientAddr) -> String {
    format!("for=\"{client}\"")
}

/// The address and port in the first element's `for`, which is the first
/// sender; `None` when it has none, is obfuscated or unknown, or is garbled.
pub fn parse_forwarded(value: &str) -> Option<ClientAddr> {
    if value.len() > MAX_LEN {
        return None;
    }
    let mut rest = value;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (node, after) = take_value(after.trim_start())?;
        if name.trim().eq_ignore_ascii_case("for") {
            let address: SocketAddr = node.parse().ok()?;
            return plausible(address).then(|| ClientAddr(canonical(address)));
        }
        // A comma would begin the next element: another sender.
        rest = after.trim_start().strip_prefix(';')?;
    }
}

/// A token or a quoted string, and what follows it. A quoted string with an
/// escape cannot be an address, so it need not be unescaped.
fn take_value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return Some((text[..end].trim_end(), &text[end..]));
    };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })?;
    Some((&quoted[..end], &quoted[end + 1..]))
}

/// An address from which a TCP connection can have come.
fn plausible(address: SocketAddr) -> bool {
    let zoned = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    let ip = address.ip();
    address.port() != 0 && !zoned && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, header) in [
            ("10.0.0.1:4711", "for=\"10.0.0.1:4711\""),
            ("[fd00::1]:4711", "for=\"[fd00::1]:4711\""),
        ] {
            let client = ClientAddr(text.parse().unwrap());
            assert_eq!(format_forwarded(client), header);
            assert_eq!(parse_forwarded(header), Some(client));
        }
    }

    #[test]
    fn the_first_sender_is_found_in_what_others_write() {
        let client = ClientAddr("10.0.0.1:80".parse().unwrap());
        for header in [
            "for=\"10.0.0.1:80\";host=web.shop.svc.cluster.local",
            "For=\"10.0.0.1:80\"",
            "by=_gw; for=\"10.0.0.1:80\" ;proto=https",
            "proto=\"a;,=\\\"b\"; for=\"10.0.0.1:80\"",
            "for=\"10.0.0.1:80\", for=\"10.9.9.9:80\"",
            "for=\"[::ffff:10.0.0.1]:80\"",
            "for=10.0.0.1:80",
        ] {
            assert_eq!(parse_forwarded(header), Some(client), "{header}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_none() {
        let long = format!("for=\"10.0.0.1:80\";host={}", "x".repeat(MAX_LEN));
        for header in [
            "",
            "for",
            "for=",
            "for=\"10.0.0.1:80",
            "for=\"10.0.0.1\"",
            "for=\"10.0.0.1:0\"",
            "for=\"0.0.0.0:80\"",
            "for=\"224.0.0.1:80\"",
            "for=\"[fe80::1%2]:80\"",
            "for=\"fd00::1:80\"",
            "for=unknown",
            "for=_hidden",
            "for=\"web:80\"",
            "for=\"10.0.0.1:80\\\"\"",
            "host=web, for=\"10.0.0.1:80\"",
            ";;;===",
            &long,
        ] {
            assert_eq!(parse_forwarded(header), None, "{header}");
        }
    }
}
