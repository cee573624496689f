//! TLS configurations of one certificate, for both directions. Made by
//! [`crate::identity::Credential`] whenever it gets a certificate, asked for each
//! handshake.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};

use super::judge::{Measure, Presented, judge};
use super::provider::provider;
use super::verify::{Grounds, Verifier};
use super::{ALPN, HandshakeFailure, ParametersStore, Role};
use crate::identity::{Anchors, Clock, SpiffeId, Svid, Trust, TrustDomain};

/// What an agent needs to do handshakes as one identity.
#[derive(Debug)]
pub(crate) struct Configs {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    own: Arc<SingleCertAndKey>,
    grounds: Arc<Grounds>,
    parameters: Arc<ParametersStore>,
    time: Arc<ClockTime>,
}

/// Why TLS cannot be set up with a certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// No root that could be used.
    #[error("no root can be used, so no peer could be trusted: {0}")]
    Root(String),
    /// There is nothing to check peers against.
    #[error("there is no root for the trust domain, so no peer could be trusted")]
    NoRoot,
    /// The certificate brings roots of somebody else's.
    #[error("the certificate brings roots of trust domain {brought}, and is of {own}")]
    OtherBundle {
        /// The certificate's trust domain.
        own: TrustDomain,
        /// That of the roots.
        brought: TrustDomain,
    },
    /// The private key is unusable or belongs to another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// Every peer would refuse the certificate.
    #[error("peers would refuse the certificate: {0}")]
    Refusable(HandshakeFailure),
    /// The TLS settings cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Protocol(rustls::Error),
}

/// The agent's clock in the form in which TLS reads it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl Configs {
    /// Takes a certificate into use. Whether peers accept it is
    /// [`Self::refusal`]'s to say.
    ///
    /// # Errors
    /// A key that does not fit.
    pub(crate) fn new(
        svid: &Svid,
        grounds: Arc<Grounds>,
        parameters: Arc<ParametersStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let key = any_supported_type(svid.key()).map_err(ConfigError::Key)?;
        let certified = CertifiedKey::new(svid.chain().to_vec(), key);
        certified.keys_match().map_err(ConfigError::Key)?;
        let certified = Arc::new(certified);
        Ok(Self {
            id: svid.id().clone(),
            own: Arc::new(SingleCertAndKey::from(Arc::clone(&certified))),
            certified,
            grounds,
            parameters,
            time: Arc::new(ClockTime(clock)),
        })
    }

    /// Why peers that trust as we do would refuse our certificate now: as a
    /// server's, or as a client's. `None`: they take it. `own_roots` are those that
    /// the certificate brings.
    pub(crate) fn refusal(
        &self,
        trust: &Trust,
        own_roots: Option<&Anchors>,
    ) -> Option<ConfigError> {
        let domain = self.id.trust_domain();
        let roots = own_roots.or_else(|| trust.anchors(domain).map(AsRef::as_ref));
        match roots {
            None => return Some(ConfigError::NoRoot),
            Some(roots) if roots.all().is_empty() => {
                return Some(match roots.unusable() {
                    [] => ConfigError::NoRoot,
                    why => ConfigError::Root(why.join("; ")),
                });
            }
            Some(_) => {}
        }
        let Some(now) = self.time.current_time() else {
            let error = rustls::Error::FailedToGetCurrentTime;
            return Some(ConfigError::Refusable(HandshakeFailure::from(&error)));
        };
        let (leaf, intermediates) = self.certified.cert.split_first()?;
        let measure = Measure {
            trust,
            own: domain,
            own_roots,
            expected: Some(&self.id),
            algorithms: &provider().signature_verification_algorithms,
        };
        [Role::Server, Role::Client].into_iter().find_map(|role| {
            let presented = Presented {
                leaf,
                intermediates,
                role,
            };
            let judged = judge(&measure, &presented, now);
            judged.err().map(ConfigError::Refusable)
        })
    }

    /// Whether the leaf is the same certificate as `other`'s.
    pub(crate) fn has_leaf_of(&self, other: &Self) -> bool {
        self.certified.cert.first() == other.certified.cert.first()
    }

    /// For one handshake as a server. Made anew for each, as [`Self::client`] is, since
    /// the verifier keeps what the peer proved: a few allocations next to the
    /// handshake's own milliseconds.
    pub(crate) fn server(&self) -> Result<(Arc<ServerConfig>, Arc<Verifier>), ConfigError> {
        let verifier = self.verifier(None);
        let mut server = self
            .parameters
            .current()
            .server(self.time.clone())
            .map_err(ConfigError::Protocol)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(self.own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        server.require_ems = true;
        Ok((Arc::new(server), verifier))
    }

    /// For one handshake as a client of `expected`.
    pub(crate) fn client(
        &self,
        expected: &SpiffeId,
    ) -> Result<(Arc<ClientConfig>, Arc<Verifier>), ConfigError> {
        let verifier = self.verifier(Some(expected.clone()));
        let mut client = self
            .parameters
            .current()
            .client(self.time.clone())
            .map_err(ConfigError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(self.own.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.require_ems = true;
        Ok((Arc::new(client), verifier))
    }

    fn verifier(&self, expected: Option<SpiffeId>) -> Arc<Verifier> {
        let algorithms = provider().signature_verification_algorithms;
        Verifier::new(Arc::clone(&self.grounds), expected, algorithms)
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
