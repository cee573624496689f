//! What the tests of identities and TLS share: clocks that are set by hand or by
//! tokio's paused time, and an authority that signs whatever a test asks for.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};

use super::{
    BoxFuture, CertificateAuthority, Clock, DomainTrust, IssueError, Issued, KeyId, Revocation,
    SpiffeId, Svid, TrustBundle, TrustDomain, TrustStore, TrustUpdate,
};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An arbitrary instant, whole in seconds as certificates are.
pub(crate) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// `spiffe://cluster.local/ns/shop/sa/<account>`
pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(domain("cluster.local"), "shop", account).unwrap()
}

/// A clock that stands until it is set.
#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<SystemTime>);

impl ManualClock {
    pub(crate) fn at(time: SystemTime) -> Arc<Self> {
        Arc::new(Self(Mutex::new(time)))
    }

    pub(crate) fn set(&self, time: SystemTime) {
        *self.0.lock().unwrap() = time;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// A clock that starts at [`epoch`] and goes with tokio's time, paused or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        epoch() + self.0.elapsed()
    }
}

/// A store in which `ca` vouches for its own trust domain, and nobody is revoked.
pub(crate) fn trusting(ca: &TestCa) -> Arc<TrustStore> {
    let trust = TrustStore::new(ca.trust_domain.clone());
    trust.set_own(ca.news(Revocation::NotUsed));
    trust
}

/// A chain and its key, as a hostile or foreign peer may come by them.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// An authority that signs anything.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    key_id: KeyId,
    /// What is sent after the leaf.
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    trust_domain: TrustDomain,
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let key = new_key();
        let params = ca_params("root");
        let root = params.self_signed(&key).unwrap();
        Self {
            key_id: KeyId::new(&params.key_identifier(&key)),
            issuer: Issuer::new(params, key),
            intermediates: Vec::new(),
            root: root.into(),
            trust_domain: domain(trust_domain),
        }
    }

    /// An authority below this one, which sends its own certificate along.
    pub(crate) fn intermediate(&self) -> Self {
        self.intermediate_named("intermediate", &[])
    }

    /// [`Self::intermediate`] with these URIs. What it signs is of this authority's trust
    /// domain; the chain goes through all authorities above it.
    pub(crate) fn intermediate_named(&self, name: &str, uris: &[&str]) -> Self {
        let key = new_key();
        let mut params = ca_params(name);
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            key_id: KeyId::new(&params.key_identifier(&key)),
            issuer: Issuer::new(params, key),
            intermediates: [certificate.into()]
                .into_iter()
                .chain(self.intermediates.iter().cloned())
                .collect(),
            root: self.root.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()])
    }

    /// A bundle that pins this authority's own certificate, an intermediate's, in place of
    /// the root above it.
    pub(crate) fn pinned_bundle(&self, trust_domain: &str) -> TrustBundle {
        TrustBundle::new(domain(trust_domain), vec![self.intermediates[0].clone()])
    }

    /// The bundle of this authority and another.
    pub(crate) fn bundle_with(&self, other: &Self) -> TrustBundle {
        let roots = vec![self.root.clone(), other.root.clone()];
        TrustBundle::new(self.trust_domain.clone(), roots)
    }

    /// The key with which this authority signs.
    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id.clone()
    }

    /// What it tells the trust store about itself.
    pub(crate) fn news(&self, revocation: Revocation) -> TrustUpdate {
        TrustUpdate {
            domain: DomainTrust {
                bundle: self.bundle(),
                revocation,
            },
            issuer: Some(self.key_id()),
        }
    }

    /// A revocation list made at [`epoch`], which revokes these serial numbers.
    pub(crate) fn list(
        &self,
        serials: &[&str],
        next_update: SystemTime,
    ) -> CertificateRevocationListDer<'static> {
        self.list_from(epoch(), serials, next_update)
    }

    /// [`Self::list`] made at another time.
    pub(crate) fn list_from(
        &self,
        this_update: SystemTime,
        serials: &[&str],
        next_update: SystemTime,
    ) -> CertificateRevocationListDer<'static> {
        let revoked = |serial: &&str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&from_hex(serial)),
            revocation_time: this_update.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().into()
    }

    /// A proper certificate for `id`, valid for a day from [`epoch`].
    pub(crate) fn identity(&self, id: &SpiffeId) -> Identity {
        self.sign(leaf_params(&[&id.to_string()]))
    }

    pub(crate) fn sign(&self, params: CertificateParams) -> Identity {
        let key = new_key();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.into()];
        chain.extend(self.intermediates.iter().cloned());
        Identity {
            chain,
            key: to_der(&key),
        }
    }

    /// The chain for the key of a certificate request (PEM), as `params` say.
    pub(crate) fn certify(
        &self,
        csr: &str,
        params: CertificateParams,
    ) -> Vec<CertificateDer<'static>> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = params;
        let mut chain = vec![request.signed_by(&self.issuer).unwrap().into()];
        chain.extend(self.intermediates.iter().cloned());
        chain
    }

    pub(crate) fn issue_valid(&self, id: &SpiffeId, from: SystemTime, to: SystemTime) -> Issued {
        let mut params = leaf_params(&[&id.to_string()]);
        params.not_before = from.into();
        params.not_after = to.into();
        let Identity { chain, key } = self.sign(params);
        let svid = Svid::named(id, &[], chain, key).unwrap();
        Issued { svid, bundle: None }
    }
}

impl CertificateAuthority for TestCa {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let issued = self.issue_valid(id, epoch(), epoch() + DAY);
        Box::pin(async move { Ok(issued) })
    }
}

/// A certificate that nobody but its own key vouches for.
pub(crate) fn self_signed(params: &CertificateParams) -> Identity {
    let key = new_key();
    Identity {
        chain: vec![params.self_signed(&key).unwrap().into()],
        key: to_der(&key),
    }
}

/// A leaf with these URIs, for both sides of TLS, valid for a day from [`epoch`].
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.not_before = epoch().into();
    params.not_after = (epoch() + DAY).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn to_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The private number in a P-256 key: PKCS #8 holds it as the first OCTET STRING
/// of 32 bytes behind version 1 (RFC 5915).
pub(crate) fn private_scalar(key: &PrivateKeyDer<'_>) -> Vec<u8> {
    let der = key.secret_der();
    let header = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = der.windows(5).position(|part| part == header).unwrap() + 5;
    der[at..at + 32].to_vec()
}

/// Whether a text shows six bytes of a secret in a row, in decimal or hex.
pub(crate) fn reveals(text: &str, secret: &[u8]) -> bool {
    secret.windows(6).any(|part| {
        let join = |separator: &str, show: fn(&u8) -> String| {
            part.iter().map(show).collect::<Vec<_>>().join(separator)
        };
        text.contains(&join(", ", u8::to_string))
            || text
                .to_lowercase()
                .contains(&join("", |byte| format!("{byte:02x}")))
            || text
                .to_lowercase()
                .contains(&join(", ", |byte| format!("{byte:#x}")))
    })
}

/// The serial number of a certificate, lower-case hex.
pub(crate) fn serial(der: &[u8]) -> String {
    super::leaf::serial(&super::leaf::parse(der).unwrap())
}
