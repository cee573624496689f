//! Intermediates that somebody else's root signs: the key is made here and waits
//! in `pending/` until its chain comes.

use std::path::Path;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::layout::Locked;
use super::signer::Signer;
use super::{CaError, MakeError, disk, pem, profile};
use crate::identity::{SpiffeId, TrustDomain, leaf};

/// What is known of a request that waits.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Waiting {
    trust_domain: String,
}

/// A chain that fits the key that waits.
pub(super) struct Fitting {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Zeroizing<String>,
    /// The root to which it leads, by its place among those that were offered.
    pub(super) root: usize,
}

/// The request that waits, in PEM. Its key is made when none waits.
pub(super) fn request(locked: &Locked<'_>, domain: &TrustDomain) -> Result<String, CaError> {
    let dir = locked.pending();
    let (file, key_file) = (dir.join("request.pem"), dir.join("key.pem"));
    if let Some(waiting) = trust_domain(locked)?
        && waiting == *domain
    {
        return disk::read(&file);
    }
    disk::remove_dir(&dir)?;
    disk::make_dir(&dir)?;
    let key = profile::new_key()?;
    let params = profile::intermediate_request(domain)?;
    let request = params.serialize_request(&key);
    let text = request.and_then(|request| request.pem());
    let key = profile::key_to_pem(key);
    let text = text.map_err(MakeError::from)?;
    disk::write_synced(&key_file, key.as_bytes(), disk::SECRET)?;
    disk::write_synced(&file, text.as_bytes(), disk::PUBLIC)?;
    // Written last: where it is, all is.
    let waiting = Waiting {
        trust_domain: domain.to_string(),
    };
    let waiting = serde_json::to_vec(&waiting).map_err(|error| CaError::Io {
        action: "encode",
        path: dir.join("pending.json"),
        source: error.into(),
    })?;
    disk::replace(&dir.join("pending.json"), &waiting, disk::PUBLIC)?;
    disk::sync_dir(locked.path())?;
    Ok(text)
}

/// The trust domain of the request that waits, if one does.
pub(super) fn trust_domain(locked: &Locked<'_>) -> Result<Option<TrustDomain>, CaError> {
    let path = locked.pending().join("pending.json");
    if !disk::exists(&path)? {
        return Ok(None);
    }
    let waiting: Option<Waiting> = serde_json::from_str(&disk::read(&path)?).ok();
    let name = waiting.and_then(|waiting| TrustDomain::new(&waiting.trust_domain).ok());
    name.map(Some).ok_or(CaError::Unreadable {
        path,
        expected: "a request that waits: remove it and start again with --csr",
    })
}

/// Checks that a chain is of the key that waits, may sign, and leads to one of
/// the roots today.
pub(super) fn fit(
    locked: &Locked<'_>,
    domain: &TrustDomain,
    chain_path: &Path,
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Fitting, CaError> {
    let does_not_fit = |reason: String| CaError::Chain {
        path: chain_path.to_owned(),
        reason,
    };
    if trust_domain(locked)?.is_none() {
        return Err(CaError::NothingPending {
            dir: locked.path().to_owned(),
        });
    }
    let key_path = locked.pending().join("key.pem");
    let key = disk::read_key(&key_path)?;
    let mut chain = pem::certificates(&disk::read(chain_path)?, chain_path)?;
    // Some tools print the root too; nobody sends it.
    chain.retain(|certificate| !roots.contains(certificate));
    let signer = match Signer::from_parts(chain, &key, chain_path, &key_path) {
        Err(CaError::Mismatch { .. }) => {
            return Err(does_not_fit(
                "its first certificate is not of the key that waits here; the intermediate comes \
                 first, and `--csr` prints its request"
                    .into(),
            ));
        }
        signer => signer?,
    };
    let named = leaf::parse(&signer.chain()[0]).ok();
    let uri = named.as_ref().and_then(|named| leaf::only_uri(named).ok());
    if let Some(uri) = uri.filter(|uri| *uri != profile::uri_of(domain)) {
        return Err(does_not_fit(format!(
            "it is for {uri:?}, this authority is of {domain}"
        )));
    }
    let probe = probe(&signer, domain, now)?;
    let mut refusal = String::from("no root was given");
    for (place, root) in roots.iter().enumerate() {
        match leads_to(&probe, signer.chain(), root, now) {
            Ok(()) => {
                let chain = signer.chain().to_vec();
                return Ok(Fitting {
                    chain,
                    key,
                    root: place,
                });
            }
            Err(error) => refusal = error.to_string(),
        }
    }
    Err(does_not_fit(format!(
        "a certificate that it signs leads to none of the {} roots: {refusal}",
        roots.len()
    )))
}

/// A workload's certificate, which shows that what the intermediate signs will
/// pass. Its key is thrown away, and it with it.
fn probe(
    signer: &Signer,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateDer<'static>, CaError> {
    let key = profile::new_key()?;
    let unreadable = |_| MakeError::Crypto(rcgen::Error::CouldNotParseCertificate);
    let id = SpiffeId::new(domain.clone(), "probe", "probe").map_err(unreadable)?;
    let end = (now + profile::LEAF_LEAST).min(signer.not_after());
    Ok(signer.sign(&profile::workload(&id, now, end)?, &key)?)
}

fn leads_to(
    probe: &CertificateDer<'_>,
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(probe)?,
        &roots,
        chain,
        UnixTime::since_unix_epoch(now),
        default_provider().signature_verification_algorithms.all,
    )
}

/// Forgets the request: its chain has come.
pub(super) fn done(locked: &Locked<'_>) -> Result<(), CaError> {
    disk::remove_dir(&locked.pending())
}
