//! Peers for the handshake tests: credentials from a test authority, and raw
//! rustls ends that present any certificate and check nothing.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::fixtures::{DAY, Identity, ManualClock, TestCa, epoch, id, trusting};
use crate::identity::{
    BoxFuture, CertificateAuthority, Credential, IssueError, Issued, SpiffeId, SvidStore,
    TrustStore,
};
use crate::tls::{HandshakeFailure, ParametersStore, Session, TlsSettings, accept, connect};

use super::PIPE;

pub(super) mod versions {
    use rustls::SupportedProtocolVersion;

    pub(in super::super) static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
    pub(super) static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
}

/// A credential and the clock it goes by.
pub(super) struct Timed {
    pub(super) credential: Arc<Credential>,
    pub(super) clock: Arc<ManualClock>,
}

/// Issues one prepared answer.
struct Once(std::sync::Mutex<Option<Issued>>);

impl CertificateAuthority for Once {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        match self.0.lock().unwrap().take() {
            Some(issued) => Box::pin(async move { Ok(issued) }),
            // A renewal, which is no matter of the test.
            None => Box::pin(std::future::pending()),
        }
    }
}

/// `account`'s credential at [`epoch`], with a day to go.
pub(super) async fn credential(ca: &TestCa, account: &str) -> Arc<Credential> {
    credential_at(ca, account, epoch(), epoch() + DAY)
        .await
        .credential
}

/// `account`'s credential, valid within these limits, on a clock that shows the
/// first.
pub(super) async fn credential_at(
    ca: &TestCa,
    account: &str,
    from: SystemTime,
    to: SystemTime,
) -> Timed {
    let issued = ca.issue_valid(&id(account), from, to);
    acquire(issued, from, trusting(ca)).await
}

/// `account`'s credential from `ca`, which judges peers by `trust`.
pub(super) async fn credential_under(
    ca: &TestCa,
    id: &SpiffeId,
    trust: &Arc<TrustStore>,
) -> Arc<Credential> {
    let issued = ca.issue_valid(id, epoch(), epoch() + DAY);
    acquire(issued, epoch(), Arc::clone(trust)).await.credential
}

/// `account`'s credential at [`epoch`], which does TLS by `parameters`.
pub(super) async fn credential_with(
    ca: &TestCa,
    account: &str,
    parameters: &Arc<ParametersStore>,
) -> Arc<Credential> {
    let issued = ca.issue_valid(&id(account), epoch(), epoch() + DAY);
    let parameters = Arc::clone(parameters);
    let held = acquire_with(issued, epoch(), trusting(ca), parameters).await;
    held.credential
}

/// A credential with what was issued, at `now`.
pub(super) async fn acquire(issued: Issued, now: SystemTime, trust: Arc<TrustStore>) -> Timed {
    let parameters = ParametersStore::new(TlsSettings::default());
    acquire_with(issued, now, trust, parameters).await
}

/// [`acquire`], of what may be unusable.
pub(super) async fn try_acquire(
    issued: Issued,
    now: SystemTime,
    trust: Arc<TrustStore>,
) -> Result<Arc<Credential>, IssueError> {
    let id = issued.svid.id().clone();
    let authority = Arc::new(Once(Some(issued).into()));
    let parameters = ParametersStore::new(TlsSettings::default());
    let store = SvidStore::with_clock(authority, trust, parameters, ManualClock::at(now));
    store.acquire(&id).await
}

async fn acquire_with(
    issued: Issued,
    now: SystemTime,
    trust: Arc<TrustStore>,
    parameters: Arc<ParametersStore>,
) -> Timed {
    let id = issued.svid.id().clone();
    let clock = ManualClock::at(now);
    let authority = Arc::new(Once(Some(issued).into()));
    let store = SvidStore::with_clock(authority, trust, parameters, clock.clone());
    let credential = store.acquire(&id).await.unwrap();
    Timed { credential, clock }
}

/// A client that presents what it is given, and trusts everybody.
pub(super) struct RawClient {
    own: Option<Arc<SingleCertAndKey>>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Vec<u8>>,
}

impl RawClient {
    pub(super) fn with(identity: Identity) -> Self {
        Self {
            own: Some(certified(identity)),
            ..Self::anonymous()
        }
    }

    pub(super) fn anonymous() -> Self {
        Self {
            own: None,
            versions: versions::TLS13,
            alpn: vec![b"h2".to_vec()],
        }
    }

    pub(super) fn speaking(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    pub(super) fn offering(self, alpn: &[&[u8]]) -> Self {
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        Self { alpn, ..self }
    }

    /// What the mesh's server makes of this client.
    pub(super) async fn handshake_with(
        &self,
        server: &Credential,
    ) -> Result<Session, HandshakeFailure> {
        self.handshake_and_read(server).await.0
    }

    /// The same, and what this client then reads.
    pub(super) async fn handshake_and_read(
        &self,
        server: &Credential,
    ) -> (Result<Session, HandshakeFailure>, io::Result<usize>) {
        let (near, far) = duplex(PIPE);
        let accepted = async { Ok(accept(server, far).await?.session) };
        let connected = async {
            let mut stream = TlsConnector::from(Arc::new(self.config()))
                .connect(nobody(), near)
                .await?;
            stream.read(&mut [0]).await
        };
        tokio::join!(accepted, connected)
    }

    pub(super) fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(default_provider())));
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(own.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }
}

/// A server that presents what it is given, and asks for no certificate.
pub(super) struct RawServer {
    own: Arc<SingleCertAndKey>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Vec<u8>>,
}

impl RawServer {
    pub(super) fn with(identity: Identity) -> Self {
        Self {
            own: certified(identity),
            versions: versions::TLS13,
            alpn: vec![b"h2".to_vec()],
        }
    }

    pub(super) fn speaking(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    pub(super) fn offering(self, alpn: &[&[u8]]) -> Self {
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        Self { alpn, ..self }
    }

    /// What the mesh's client makes of this server.
    pub(super) async fn handshake_with(
        &self,
        client: &Credential,
        expected: &SpiffeId,
    ) -> Result<Session, HandshakeFailure> {
        let mut config = ServerConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols.clone_from(&self.alpn);
        let (near, far) = duplex(PIPE);
        let connected = async { Ok(connect(client, expected, near).await?.session) };
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(far);
        tokio::join!(connected, accepted).0
    }
}

fn certified(identity: Identity) -> Arc<SingleCertAndKey> {
    let Identity { chain, key } = identity;
    let key = signing_key(&key);
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

fn signing_key(key: &PrivateKeyDer<'_>) -> Arc<dyn rustls::sign::SigningKey> {
    rustls::crypto::aws_lc_rs::sign::any_supported_type(key).unwrap()
}

fn nobody() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]))
}

/// Takes any server for anybody.
#[derive(Debug)]
struct Trusting(CryptoProvider);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
