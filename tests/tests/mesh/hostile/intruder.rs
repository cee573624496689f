//! A tunnel client of the tests' own making, with any certificate, that trusts everybody.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use h2::client::SendRequest;
use http::{Method, Request};
use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::foreign;

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The HTTP status, and the first bytes of the tunnel when there is one.
    Status { code: u16, first: String },
    /// No answer: the handshake, the connection or the stream was refused, with this error.
    Refused(String),
}

/// A client with (or without) a certificate.
pub(crate) struct Intruder {
    config: Arc<ClientConfig>,
}

impl Intruder {
    pub(crate) fn without_certificate() -> Result<Self> {
        Self::new(None)
    }

    /// With a certificate that the mesh's own authority could have issued, for any URI.
    pub(crate) fn of_the_mesh(state: &Path, uri: &str) -> Result<Self> {
        Self::of_the_issuer(state, params(&[uri])?)
    }

    pub(crate) fn expired(state: &Path, uri: &str) -> Result<Self> {
        let mut params = params(&[uri])?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        Self::of_the_issuer(state, params)
    }

    pub(crate) fn with_two_identities(state: &Path, one: &str, other: &str) -> Result<Self> {
        Self::of_the_issuer(state, params(&[one, other])?)
    }

    /// With a certificate of an authority of its own, which claims to be the mesh's.
    pub(crate) fn of_another_authority(uri: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self::signed_by(&Issuer::new(root, key), "", params(&[uri])?)
    }

    /// Opens a tunnel and asks for `authority`; reads what comes first.
    pub(crate) fn connect(&self, to: SocketAddr, authority: &str) -> Result<Answer> {
        self.connect_with(to, authority, "x-test", "1")
    }

    pub(crate) fn connect_with_header(
        &self,
        to: SocketAddr,
        authority: &str,
        value: &str,
    ) -> Result<Answer> {
        self.connect_with(to, authority, "x-huge", value)
    }

    pub(crate) fn connect_with(
        &self,
        to: SocketAddr,
        authority: &str,
        name: &str,
        value: &str,
    ) -> Result<Answer> {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .header(name, value)
            .body(())?;
        self.ask(to, request)
    }

    pub(crate) fn get(&self, url: String, to: SocketAddr) -> Result<Answer> {
        self.ask(
            to,
            Request::builder().method(Method::GET).uri(url).body(())?,
        )
    }

    /// Opens up to `count` streams and keeps them; gives how many were granted.
    pub(crate) fn flood(&self, to: SocketAddr, authority: &str, count: usize) -> Result<usize> {
        block_on(async {
            let mut client = self.tunnel(to).await?;
            let mut held = Vec::new();
            // The first one alone: after its answer the server's limits are known and kept.
            let request = Request::builder()
                .method(Method::CONNECT)
                .uri(authority)
                .body(())?;
            let (response, stream) = client.send_request(request, false)?;
            let first = (response.await?, stream);
            for _ in 0..count {
                let request = Request::builder()
                    .method(Method::CONNECT)
                    .uri(authority)
                    .body(())?;
                // The server's limit on streams makes this wait for ever once it is reached.
                let ready =
                    tokio::time::timeout(std::time::Duration::from_secs(2), client.clone().ready())
                        .await;
                let Ok(Ok(ready)) = ready else { break };
                client = ready;
                let Ok((response, stream)) = client.send_request(request, false) else {
                    break;
                };
                held.push((response, stream));
            }
            let mut granted = usize::from(first.0.status() == 200);
            let mut open = Vec::new();
            for (response, stream) in held {
                // They are answered in order: after one that waits for its turn, all do.
                let wait = tokio::time::timeout(std::time::Duration::from_secs(5), response);
                let Ok(answer) = wait.await else { break };
                if let Ok(response) = answer
                    && response.status() == 200
                {
                    granted += 1;
                    open.push((response, stream));
                }
            }
            Ok(granted)
        })
    }

    fn ask(&self, to: SocketAddr, request: Request<()>) -> Result<Answer> {
        block_on(async {
            match self.exchange(to, request).await {
                Ok(answer) => Ok(answer),
                Err(error) => Ok(Answer::Refused(format!("{error:#}"))),
            }
        })
    }

    async fn exchange(&self, to: SocketAddr, request: Request<()>) -> Result<Answer> {
        let mut client = self.tunnel(to).await?.ready().await?;
        let (response, _stream) = client.send_request(request, false)?;
        let mut response = response.await?;
        let code = response.status().as_u16();
        let mut first = String::new();
        if code == 200
            && let Some(bytes) = response.body_mut().data().await
        {
            first = String::from_utf8_lossy(&bytes?).into_owned();
        }
        Ok(Answer::Status { code, first })
    }

    async fn tunnel(&self, to: SocketAddr) -> Result<SendRequest<bytes::Bytes>> {
        let tcp = TcpStream::connect(to).await.context("connecting")?;
        let name = ServerName::from(to.ip());
        let tls = TlsConnector::from(self.config.clone())
            .connect(name, tcp)
            .await
            .context("the handshake")?;
        let (client, connection) = h2::client::handshake(tls).await.context("HTTP/2")?;
        // It ends with the runtime; its error also shows on the stream.
        tokio::spawn(async { drop(connection.await) });
        Ok(client)
    }

    fn of_the_issuer(state: &Path, params: CertificateParams) -> Result<Self> {
        let (issuer, chain) = foreign::issuer(state)?;
        Self::signed_by(&issuer, &chain, params)
    }

    fn signed_by(
        issuer: &Issuer<'_, KeyPair>,
        chain: &str,
        params: CertificateParams,
    ) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self::new(Some((foreign::with_chain(&certificate, chain)?, key)))
    }

    fn new(
        certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
        let mut config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

fn params(uris: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into()?));
    }
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limit = isthmus_tests::wait::patience(60);
    runtime.block_on(async {
        tokio::time::timeout(limit, work)
            .await
            .context("no answer in time")?
    })
}

/// Takes any server: the tests are about what the server takes.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
