//! Certificates as the mesh's own authority would never issue them, signed by its key or by
//! another's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use isthmus_tests::mesh::Mesh;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Somebody who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What stands between it and the root, in PEM.
    chain: String,
    /// By which its revocation lists name it.
    key_id: Vec<u8>,
}

impl Authority {
    /// The mesh's own, whose keys only root can read.
    pub(crate) fn of_the_mesh(mesh: &Mesh) -> Result<Self> {
        Self::of(&mesh.state())
    }

    /// The one embedded in the agents with this state folder.
    pub(crate) fn of(state: &Path) -> Result<Self> {
        let (issuer, chain) = issuer(state)?;
        // Intermediates are named by their key.
        let only = only_issuer(state)?;
        let name = only.file_name().context("no name")?;
        let key_id = unhex(&name.to_string_lossy())?;
        Ok(Self {
            issuer,
            chain,
            key_id,
        })
    }

    /// Another, which the mesh has never heard of.
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self {
            issuer: Issuer::new(params, KeyPair::generate()?),
            chain: String::new(),
            key_id: Vec::new(),
        })
    }

    /// A certificate for these URIs, valid now.
    pub(crate) fn leaf(&self, uris: &[&str]) -> Result<CertifiedKey> {
        self.sign(&params(uris)?)
    }

    /// A certificate for a URI, valid until `end`.
    pub(crate) fn leaf_until(&self, uri: &str, end: SystemTime) -> Result<CertifiedKey> {
        let mut params = params(&[uri])?;
        params.not_after = end.into();
        self.sign(&params)
    }

    /// A certificate whose time is over.
    pub(crate) fn expired(&self, uri: &str) -> Result<CertifiedKey> {
        let mut params = params(&[uri])?;
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 2);
        self.sign(&params)
    }

    /// A certificate and its key as one PEM file.
    pub(crate) fn pem_leaf(&self, uri: &str) -> Result<String> {
        let key = KeyPair::generate()?;
        let certificate = params(&[uri])?.signed_by(&key, &self.issuer)?;
        Ok(certificate.pem() + &self.chain + &key.serialize_pem())
    }

    /// A revocation list in PEM that names these serials (in hex) and is due to be replaced
    /// `next`.
    pub(crate) fn list(&self, revoked: &[&str], next: SystemTime) -> Result<String> {
        let day = Duration::from_secs(24 * 3600);
        let entry = |serial: &&str| -> Result<_> {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(unhex(serial)?),
                revocation_time: (next - day).into(),
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: (next - day).into(),
            next_update: next.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_id.clone()),
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn sign(&self, params: &CertificateParams) -> Result<CertifiedKey> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        Ok(CertifiedKey::new(
            with_chain(&certificate, &self.chain)?,
            key,
        ))
    }
}

/// A certificate with the chain (PEM) behind it, as it is presented.
pub(crate) fn with_chain(leaf: &Certificate, chain: &str) -> Result<Vec<CertificateDer<'static>>> {
    let mut presented = vec![leaf.der().clone()];
    for certificate in CertificateDer::pem_slice_iter(chain.as_bytes()) {
        presented.push(certificate?);
    }
    Ok(presented)
}

/// What the authority embedded in the agents signs with, from their state folder: key and
/// name, and the chain (PEM) that belongs behind each certificate.
pub(crate) fn issuer(state: &Path) -> Result<(Issuer<'static, KeyPair>, String)> {
    let only = only_issuer(state)?;
    let read = |file: &str| {
        let path = only.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let chain = read("chain.pem")?;
    let key = KeyPair::from_pem(&read("key.pem")?)?;
    Ok((Issuer::from_ca_cert_pem(&chain, key)?, chain))
}

fn only_issuer(state: &Path) -> Result<PathBuf> {
    let mut issuers = fs::read_dir(state.join("ca/issuers"))?;
    Ok(issuers.next().context("no issuer")??.path())
}

fn params(uris: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into()?));
    }
    Ok(params)
}

/// The bytes that a text in hex stands for.
fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<_> = text.chars().map(|c| c.to_digit(16)).collect();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [Some(high), Some(low)] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    pairs
        .collect::<Option<_>>()
        .with_context(|| format!("{text:?} is not hex"))
}
