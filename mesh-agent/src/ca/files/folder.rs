//! Reads one workload's folder and checks that what is in it can serve.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use zeroize::Zeroizing;

use super::FileError;
use crate::identity::{Issued, SpiffeId, Svid, TrustBundle, pem};
use crate::tls;

/// The leaf, then what leads to a root.
pub(super) const CHAIN: &str = "cert-chain.pem";
/// The leaf's private key.
pub(super) const KEY: &str = "key.pem";
/// The roots.
pub(super) const ROOTS: &str = "root-cert.pem";

/// Most that is read of a file. A chain is a few KiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads and checks the certificate of `id`, which may prove itself with `names`.
/// Blocks.
pub(super) fn read(
    folder: &Path,
    id: &SpiffeId,
    names: &[String],
    now: SystemTime,
) -> Result<Issued, FileError> {
    let paths = Paths {
        chain: folder.join(CHAIN),
        key: folder.join(KEY),
        roots: folder.join(ROOTS),
    };
    let pem_error = |path: &PathBuf| {
        let path = path.clone();
        move |source| FileError::Pem { path, source }
    };
    let (text, _) = read_file(&paths.chain)?;
    let chain = pem::certificates(&text).map_err(pem_error(&paths.chain))?;
    let (text, _) = read_file(&paths.roots)?;
    let roots = pem::roots(&text).map_err(pem_error(&paths.roots))?;
    let key = read_key(&paths.key)?;

    keys_match(&chain, &key, &paths)?;
    let svid = Svid::named(id, names, chain, key).map_err(|source| FileError::Identity {
        path: paths.chain.clone(),
        source: Box::new(source),
    })?;
    in_time(&svid, now, &paths)?;
    leads_to(&roots, &svid, now).map_err(|why| FileError::Untrusted {
        chain: paths.chain,
        roots: paths.roots,
        why,
    })?;
    let bundle = TrustBundle::new(id.trust_domain().clone(), roots);
    Ok(Issued {
        svid,
        bundle: Some(bundle),
    })
}

/// The files of a folder.
struct Paths {
    chain: PathBuf,
    key: PathBuf,
    roots: PathBuf,
}

/// Reads a file and inspects the very file that was read.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Metadata), FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for its writer.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let not_a_file = || FileError::NotAFile {
        path: path.to_owned(),
        max: MAX_BYTES,
    };
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(not_a_file());
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(metadata.len() + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok((bytes, metadata))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let (text, metadata) = read_file(path)?;
    let path = || path.to_owned();
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::KeyPermissions { path: path(), mode });
    }
    let (owner, agent) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != agent {
        return Err(FileError::KeyOwner {
            path: path(),
            owner,
            agent,
        });
    }
    // What the PEM reader says could quote the file.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| FileError::Key { path: path() })
}

fn keys_match(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    paths: &Paths,
) -> Result<(), FileError> {
    let signer = any_supported_type(key).map_err(|_| FileError::Key {
        path: paths.key.clone(),
    })?;
    let pair = CertifiedKey::new(chain.to_vec(), signer);
    pair.keys_match().map_err(|_| FileError::Mismatch {
        key: paths.key.clone(),
        chain: paths.chain.clone(),
    })
}

fn in_time(svid: &Svid, now: SystemTime, paths: &Paths) -> Result<(), FileError> {
    let path = || paths.chain.clone();
    if now > svid.not_after() {
        let at = svid.not_after();
        return Err(FileError::Expired { path: path(), at });
    }
    if now < svid.not_before() {
        let at = svid.not_before();
        return Err(FileError::NotYetValid { path: path(), at });
    }
    Ok(())
}

/// Checks the certificate as a server's and as a client's: it has to be both.
fn leads_to(roots: &[CertificateDer<'static>], svid: &Svid, now: SystemTime) -> Result<(), Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let store = Arc::new(store);
    let since = now
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Error::FailedToGetCurrentTime)?;
    let now = UnixTime::since_unix_epoch(since);
    // `Svid::named` refuses an empty chain.
    let (leaf, intermediates) = svid
        .chain()
        .split_first()
        .ok_or(Error::NoCertificatesPresented)?;
    let provider = tls::provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, &store, intermediates, now, algorithms)?;
    let clients = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    clients.verify_client_cert(leaf, intermediates, now)?;
    Ok(())
}
