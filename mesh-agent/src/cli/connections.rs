//! `mesh-agent connections` as a table.

use super::human;
use super::table::{self, Kind};
use crate::observe::{ConnectionInfo, Direction};

pub(super) fn render(connections: &[ConnectionInfo]) -> String {
    if connections.is_empty() {
        return "no connection is open\n".into();
    }
    let columns = [
        ("DIR", Kind::Whole),
        ("POD", Kind::Elastic),
        ("PEER IDENTITY", Kind::Elastic),
        ("DESTINATION", Kind::Whole),
        ("SECURITY", Kind::Whole),
        ("SENT", Kind::Number),
        ("RECEIVED", Kind::Number),
        ("AGE", Kind::Number),
    ];
    let rows: Vec<_> = connections.iter().map(row).collect();
    table::render(&columns, &rows)
}

fn row(connection: &ConnectionInfo) -> Vec<String> {
    let direction = match connection.direction {
        Direction::Outbound => "out",
        Direction::Inbound => "in",
    };
    vec![
        direction.into(),
        connection.pod.clone(),
        connection
            .peer_identity
            .as_deref()
            .map_or("-", human::identity)
            .into(),
        connection
            .service
            .as_ref()
            .unwrap_or(&connection.destination)
            .clone(),
        security(connection),
        human::bytes(connection.bytes_sent),
        human::bytes(connection.bytes_received),
        human::millis(connection.age_ms),
    ]
}

/// `TLSv1.3 AES_256_GCM`, `plaintext`, or `-` while it is being made. The hash is left
/// out: in TLS 1.3 the cipher tells it (RFC 8446, B.4).
fn security(connection: &ConnectionInfo) -> String {
    match (&connection.tls_version, &connection.tls_suite) {
        (Some(version), Some(suite)) => {
            let suite = suite.strip_prefix("TLS_").unwrap_or(suite);
            let cipher = suite
                .rsplit_once("_SHA")
                .map_or(suite, |(cipher, _)| cipher);
            format!("{version} {cipher}")
        }
        _ => connection.security.clone().unwrap_or_else(|| "-".into()),
    }
}
