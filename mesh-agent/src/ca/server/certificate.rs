//! The server's own TLS certificate: signed by the authority it serves, and replaced
//! at half of its life or when the authority signs with another issuer, for the next
//! handshake on. Owned by [`super::Server`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use zeroize::{Zeroize, Zeroizing};

use super::trust::Published;
use super::{ServeError, blocking};
use crate::ca::Authority;
use crate::identity::Clock;
use crate::tls::{ALPN, provider, random_fraction};

/// Longest single sleep. Timers do not count the time a machine is suspended and do
/// not see the wall clock being set, so the clock is read this often.
const MAX_NAP: Duration = Duration::from_secs(60);

/// Wait after a renewal that failed.
const RETRY: Duration = Duration::from_secs(10);

pub(super) struct OwnCertificate {
    authority: Arc<Authority>,
    names: Vec<ServerName<'static>>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Current>,
    serial: watch::Sender<String>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

impl OwnCertificate {
    pub(super) async fn obtain(
        authority: Arc<Authority>,
        names: Vec<ServerName<'static>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, ServeError> {
        let (first, serial) = certify(&authority, &names, &*clock).await?;
        Ok(Arc::new(Self {
            authority,
            names,
            clock,
            current: ArcSwap::from_pointee(first),
            serial: watch::Sender::new(serial),
        }))
    }

    pub(super) fn serial(&self) -> watch::Receiver<String> {
        self.serial.subscribe()
    }

    /// TLS 1.3 without client certificates: callers prove themselves in each call.
    pub(super) fn tls_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, ServeError> {
        let mut config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would bring an earlier certificate's trust along.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Renews for as long as it is polled.
    pub(super) async fn keep_fresh(self: Arc<Self>, mut trust: watch::Receiver<Published>) {
        let mut issuer = trust.borrow_and_update().message.issuer.clone();
        loop {
            let other_issuer = async {
                let changed = trust.wait_for(|now| now.message.issuer != issuer).await;
                changed.map(|now| now.message.issuer.clone())
            };
            tokio::select! {
                () = self.due() => {}
                changed = other_issuer => match changed {
                    Ok(changed) => issuer = changed,
                    // Nobody tells any more: the server ends.
                    Err(_) => self.due().await,
                },
            }
            while let Err(error) = self.renew().await {
                tracing::error!(%error, "the server's own certificate is not renewed, keeping the one in use");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn due(&self) {
        let due = self.current.load().renew_at;
        while let Ok(left) = due.duration_since(self.clock.now()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(MAX_NAP)).await;
        }
    }

    async fn renew(&self) -> Result<(), ServeError> {
        let (next, serial) = certify(&self.authority, &self.names, &*self.clock).await?;
        self.current.store(Arc::new(next));
        tracing::info!(%serial, "the server's own certificate is renewed");
        self.serial.send_replace(serial);
        Ok(())
    }
}

async fn certify(
    authority: &Arc<Authority>,
    names: &[ServerName<'static>],
    clock: &dyn Clock,
) -> Result<(Current, String), ServeError> {
    // Without names: it is not the request that says them.
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = params.serialize_request(&key);
    let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
    key.zeroize();
    let pkcs8 = Zeroizing::new(PrivateKeyDer::from(pkcs8));
    let csr = csr?;
    let names = names.to_vec();
    let signed = blocking(authority, move |ca| ca.sign_server(csr.der(), &names)).await??;
    let key = CertifiedKey::new(signed.chain, any_supported_type(&pkcs8)?);
    key.keys_match()?;
    let now = clock.now();
    let left = signed.not_after.duration_since(now).unwrap_or_default();
    let current = Current {
        key: Arc::new(key),
        renew_at: now + left.mul_f64(0.5 - 0.1 * random_fraction()),
    };
    Ok((current, signed.serial))
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
