//! Making roots and intermediates in an authority's directory: keys and
//! certificates are written here, and take effect when the state names them.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::layout::Locked;
use super::signer::Signer;
use super::state::{IssuerEntry, RootEntry};
use super::{CaError, crl, pem, profile};
use crate::identity::TrustDomain;

/// Makes a root and writes its key.
pub(super) fn root(
    locked: &Locked<'_>,
    domain: &TrustDomain,
    name: String,
    now: SystemTime,
) -> Result<RootEntry, CaError> {
    let key = profile::new_key()?;
    let certificate = profile::root(domain, now)?.self_signed(&key);
    let key = profile::key_to_pem(key);
    let certificate = certificate.map_err(super::MakeError::from)?.pem();
    locked.add_root_key(&name, &key)?;
    Ok(RootEntry { name, certificate })
}

/// Makes an intermediate below a root whose key is here, and writes it with its
/// first revocation list.
pub(super) fn intermediate(
    locked: &Locked<'_>,
    domain: &TrustDomain,
    root: &RootEntry,
    now: SystemTime,
) -> Result<IssuerEntry, CaError> {
    let above = root_signer(locked, root)?;
    let key = profile::new_key()?;
    let params = profile::intermediate(domain, now, above.not_after())?;
    let certificate = above.sign(&params, &key);
    let key = profile::key_to_pem(key);
    write(locked, vec![certificate?], &key, root.name.clone(), now)
}

/// Writes an intermediate with its first revocation list.
pub(super) fn write(
    locked: &Locked<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: &str,
    root: String,
    now: SystemTime,
) -> Result<IssuerEntry, CaError> {
    let text = pem::chain(&chain);
    let place = locked.issuer("new");
    let signer = Signer::from_parts(chain, key, &place.chain(), &place.key())?;
    let list = crl::make(&signer, &[], None, now)?;
    let name = signer.key_id().to_string();
    locked.add_issuer(&name, &text, key, &list)?;
    Ok(IssuerEntry {
        name,
        root,
        last_not_after: None,
    })
}

/// A root that can sign, because its key is here.
pub(super) fn root_signer(locked: &Locked<'_>, root: &RootEntry) -> Result<Signer, CaError> {
    let key = locked.root_key(&root.name);
    if !super::disk::exists(&key)? {
        return Err(CaError::NoRootKey {
            root: root.name.clone(),
            dir: locked.path().to_owned(),
        });
    }
    Signer::load_root(root, &locked.state_file(), &key)
}
