//! Decides whether a scrape of the node's address sees the names and identities of workloads:
//! asked by `routes` for `/metrics`. The unix socket, which is root's, always shows them.
//!
//! Without a token a scrape gets sums that name nobody. With one it gets everything, if the
//! token is that of `--metrics-token`, or in a cluster if the API server says that its bearer
//! may `get` the non-resource URL `/metrics`, as the kubelet asks too. A token that proves no
//! such right is refused instead of being ignored.

mod cluster;

use std::path::PathBuf;
use std::sync::OnceLock;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use http::StatusCode;
use kube::Client;

use cluster::ClusterAccess;

/// To whom `/metrics` names workloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MetricsIdentities {
    /// To those that prove a right to it.
    #[default]
    Authorized,
    /// To everyone who reaches the address.
    Open,
}

/// How the right to see identities in metrics is proved.
#[derive(Debug, Default)]
pub struct MetricsAccess {
    identities: MetricsIdentities,
    token_file: Option<PathBuf>,
    cluster: OnceLock<ClusterAccess>,
}

/// What a scrape is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scrape {
    /// Everything.
    Named,
    /// Sums that name nobody.
    Nameless,
    /// Nothing.
    Refused(StatusCode, String),
}

impl MetricsAccess {
    /// Access as the options say. The token is read from `token_file` at each scrape.
    pub fn new(identities: MetricsIdentities, token_file: Option<PathBuf>) -> Self {
        Self {
            identities,
            token_file,
            cluster: OnceLock::new(),
        }
    }

    /// Asks the API server of `client` about tokens from now on.
    pub fn ask_cluster(&self, client: Client) {
        self.cluster.get_or_init(|| ClusterAccess::new(client));
    }

    /// The answer to a scrape with this `Authorization` header. Blocks while it asks the API
    /// server: not for the runtime's own threads.
    pub(super) fn decide(&self, authorization: Option<&[u8]>) -> Scrape {
        if self.identities == MetricsIdentities::Open {
            return Scrape::Named;
        }
        let Some(authorization) = authorization else {
            return Scrape::Nameless;
        };
        let Some(token) = bearer(authorization) else {
            return unauthorized("the Authorization header holds no bearer token");
        };
        if self.is_own_token(token) {
            return Scrape::Named;
        }
        match self.cluster.get() {
            Some(cluster) => cluster.decide(token),
            None => unauthorized("this agent knows no such token (--metrics-token)"),
        }
    }

    fn is_own_token(&self, token: &str) -> bool {
        let own = self.token_file.as_ref().and_then(|file| {
            std::fs::read_to_string(file)
                .inspect_err(|error| {
                    tracing::warn!(file = %file.display(), %error, "--metrics-token cannot be read");
                })
                .ok()
        });
        own.as_deref()
            .map(str::trim)
            .is_some_and(|own| !own.is_empty() && is_same(own, token))
    }
}

fn unauthorized(why: &str) -> Scrape {
    Scrape::Refused(StatusCode::UNAUTHORIZED, why.to_owned())
}

/// The token of `Bearer TOKEN` (RFC 6750 §2.1); the scheme is case-insensitive.
fn bearer(authorization: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Compares in a time that does not depend on where the texts differ.
fn is_same(a: &str, b: &str) -> bool {
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    verify_slices_are_equal(hash(a).as_ref(), hash(b).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(scrape: &Scrape) -> Option<StatusCode> {
        match scrape {
            Scrape::Refused(status, _) => Some(*status),
            _ => None,
        }
    }

    #[test]
    fn decide_names_nobody_without_a_token() {
        let access = MetricsAccess::default();
        assert_eq!(access.decide(None), Scrape::Nameless);
        let open = MetricsAccess::new(MetricsIdentities::Open, None);
        assert_eq!(open.decide(None), Scrape::Named);
    }

    #[test]
    fn decide_takes_the_token_of_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let access = MetricsAccess::new(MetricsIdentities::Authorized, Some(file.clone()));
        for (header, expected) in [
            ("Bearer secret", None),
            ("bearer secret", None),
            ("Bearer other", Some(StatusCode::UNAUTHORIZED)),
            ("Bearer ", Some(StatusCode::UNAUTHORIZED)),
            ("Basic secret", Some(StatusCode::UNAUTHORIZED)),
            ("secret", Some(StatusCode::UNAUTHORIZED)),
        ] {
            let decided = access.decide(Some(header.as_bytes()));
            assert_eq!(refused(&decided), expected, "{header}");
            assert_eq!(decided == Scrape::Named, expected.is_none(), "{header}");
        }
        std::fs::write(&file, "\n").unwrap();
        let empty = access.decide(Some(b"Bearer secret"));
        assert_eq!(refused(&empty), Some(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn decide_refuses_tokens_that_nothing_can_verify() {
        let decided = MetricsAccess::default().decide(Some(b"Bearer any"));
        assert_eq!(refused(&decided), Some(StatusCode::UNAUTHORIZED));
    }
}
