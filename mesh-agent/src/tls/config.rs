//! TLS configurations of one certificate, for both directions. Built by
//! [`crate::identity::Credential`] whenever it gets a certificate.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use super::provider::provider;
use super::verify::{ExpectedServer, OwnDomainClient};
use super::{ALPN, HandshakeFailure};
use crate::identity::{Clock, SpiffeId, Svid, TrustBundle};

/// What an agent needs to do handshakes as one identity.
#[derive(Debug)]
pub(crate) struct Configs {
    server: Arc<ServerConfig>,
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
    time: Arc<ClockTime>,
}

/// Why TLS cannot be set up with a certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A root is not a certificate.
    #[error("root {index} of the trust bundle cannot be used: {source}")]
    Root {
        /// Its place in the bundle, from 0.
        index: usize,
        /// What TLS says about it.
        source: rustls::Error,
    },
    /// There is nothing to check peers against.
    #[error("the trust bundle holds no root, so no peer could be trusted")]
    NoRoot,
    /// The private key is unusable or belongs to another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// Every peer would refuse the certificate.
    #[error("peers would refuse the certificate: {0}")]
    Refusable(HandshakeFailure),
    /// The provider cannot do TLS 1.3.
    #[error("TLS 1.3 cannot be set up: {0}")]
    Protocol(rustls::Error),
}

/// The agent's clock in the form in which TLS reads it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl Configs {
    /// Sets up both directions, and checks first that peers with the same
    /// bundle would accept the certificate now.
    pub(crate) fn new(
        svid: &Svid,
        bundle: &TrustBundle,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let roots = Arc::new(root_store(bundle)?);
        let time = Arc::new(ClockTime(clock));
        refuse_what_peers_would(svid, &roots, &time)?;
        let key = any_supported_type(svid.key()).map_err(ConfigError::Key)?;
        let own = CertifiedKey::new(svid.chain().to_vec(), key);
        own.keys_match().map_err(ConfigError::Key)?;
        let own = Arc::new(SingleCertAndKey::from(own));
        let verifier = OwnDomainClient::new(Arc::clone(&roots), bundle.trust_domain().clone())
            .map_err(|_| ConfigError::NoRoot)?;
        let mut server = ServerConfig::builder_with_details(provider().clone(), time.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(ConfigError::Protocol)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        let configs = Self {
            server: Arc::new(server),
            own,
            roots,
            time,
        };
        Ok(configs)
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Made for each handshake, since each expects somebody: a few small
    /// allocations next to the handshake's own milliseconds.
    pub(crate) fn client(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        let verifier = ExpectedServer::new(Arc::clone(&self.roots), expected.clone());
        let mut client = ClientConfig::builder_with_details(provider().clone(), self.time.clone())
            .with_protocol_versions(&[&version::TLS13])
            .expect("the server's side was set up with the same provider and version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        Arc::new(client)
    }
}

fn root_store(bundle: &TrustBundle) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    for (index, root) in bundle.roots().iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|source| ConfigError::Root { index, source })?;
    }
    if store.is_empty() {
        return Err(ConfigError::NoRoot);
    }
    Ok(store)
}

fn refuse_what_peers_would(
    svid: &Svid,
    roots: &Arc<RootCertStore>,
    time: &ClockTime,
) -> Result<(), ConfigError> {
    let refusable = |error| ConfigError::Refusable(HandshakeFailure::from(&error));
    let nobody = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let now = time
        .current_time()
        .ok_or(rustls::Error::FailedToGetCurrentTime)
        .map_err(refusable)?;
    // `Svid::new` refuses an empty chain.
    let (leaf, intermediates) = svid
        .chain()
        .split_first()
        .ok_or(ConfigError::Key(rustls::Error::NoCertificatesPresented))?;
    ExpectedServer::new(Arc::clone(roots), svid.id().clone())
        .verify_server_cert(leaf, intermediates, &nobody, &[], now)
        .map_err(refusable)?;
    Ok(())
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
