//! The texts of a policy's fields, read and checked.

use super::Report;
use crate::policy::{Account, IpBlock, Pattern, Principals, Values};

/// Service accounts in one list, and bytes of one, at most: Istio's `CheckServiceAccount`
/// (`pkg/config/security`) and its CRD.
const MAX_ACCOUNTS: usize = 16;
const MAX_ACCOUNT: usize = 320;

/// With `expand` for the trust domains.
pub(super) fn principals(
    texts: &[String],
    expand: impl FnOnce(&[Pattern]) -> Principals,
    at: &str,
    report: &mut Report<'_>,
) -> Values {
    Values::Principals(expand(&patterns(texts, at, report)))
}

pub(super) fn trust_domains(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    Values::TrustDomains(patterns(texts, at, report))
}

pub(super) fn namespaces(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    Values::Namespaces(patterns(texts, at, report))
}

fn patterns(texts: &[String], at: &str, report: &mut Report<'_>) -> Box<[Pattern]> {
    no_empty(texts, at, report);
    texts.iter().map(|text| Pattern::new(text)).collect()
}

/// `<namespace>/<account>`, or an account of the policy's own namespace. Wildcards do
/// not count here.
pub(super) fn accounts(
    texts: &[String],
    namespace: &str,
    at: &str,
    report: &mut Report<'_>,
) -> Values {
    no_empty(texts, at, report);
    if texts.len() > MAX_ACCOUNTS {
        let message = format!("it has {} values; {MAX_ACCOUNTS} are allowed", texts.len());
        report.fault(at, message, "write a second source or condition");
    }
    let accounts = texts.iter().map(|text| {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') || text.contains('*') {
            let message = format!("{text:?} is neither <namespace>/<account> nor an account");
            report.fault(at, message, "write one of the two, without wildcards");
        } else if text.len() > MAX_ACCOUNT {
            let message = format!("{text:?} is longer than {MAX_ACCOUNT} characters");
            report.fault(at, message, "correct it");
        }
        Account {
            namespace: namespace.into(),
            name: name.into(),
        }
    });
    Values::Accounts(accounts.collect())
}

pub(super) fn peer_ips(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    Values::PeerIps(blocks(texts, at, report))
}

pub(super) fn client_ips(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    Values::ClientIps(blocks(texts, at, report))
}

pub(super) fn destination_ips(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    Values::DestinationIps(blocks(texts, at, report))
}

fn blocks(texts: &[String], at: &str, report: &mut Report<'_>) -> Box<[IpBlock]> {
    let blocks = texts.iter().filter_map(|text| match IpBlock::new(text) {
        Ok(block) => Some(block),
        Err(error) => {
            report.fault(at, error.to_string(), "write 203.0.113.4 or 203.0.113.0/24");
            None
        }
    });
    blocks.collect()
}

pub(super) fn ports(texts: &[String], at: &str, report: &mut Report<'_>) -> Values {
    let ports = texts.iter().filter_map(|text| match port(text) {
        Some(port) => Some(port),
        None => {
            let message = format!("{text:?} is not a TCP port");
            report.fault(at, message, "write a number from 1 to 65535");
            None
        }
    });
    Values::Ports(ports.collect())
}

/// A number from 1 to 65535.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

pub(super) fn no_empty(texts: &[String], at: &str, report: &mut Report<'_>) {
    if texts.iter().any(String::is_empty) {
        report.fault(at, "one of its values is empty", "remove or correct it");
    }
}
