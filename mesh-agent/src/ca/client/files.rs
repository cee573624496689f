//! The files that the client is given: roots, token, revocation lists. They are read
//! anew whenever they are needed, since others replace them.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use super::RemoteError;
use crate::identity::Revocation;

/// Longest file of roots and longest token.
const MAX_BYTES: u64 = 1024 * 1024;

/// Longest file of revocation lists: about half a million entries.
const MAX_LIST_BYTES: u64 = 32 * 1024 * 1024;

const ROOTS: &str = "roots";
const TOKEN: &str = "token";

/// The roots in a PEM file; at least one.
pub(in crate::ca) fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let pem = read(ROOTS, path, MAX_BYTES)?;
    let mut roots = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let broken = || file(ROOTS, path, format!("certificate {index} is broken"));
        let der = der.map_err(|_| broken())?;
        x509_parser::parse_x509_certificate(&der).map_err(|_| broken())?;
        roots.push(der);
    }
    if roots.is_empty() {
        let why = "it holds no certificate in PEM; `mesh-agent ca bundle` prints an authority's";
        return Err(file(ROOTS, path, why));
    }
    Ok(roots)
}

/// The token in a file, without white space around it.
pub(in crate::ca) fn token(path: &Path) -> Result<Zeroizing<String>, RemoteError> {
    let bytes = read(TOKEN, path, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "it is not one line of text; `mesh-agent ca token create` prints one for a node";
        return Err(file(TOKEN, path, why));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// The revocation lists in a PEM file. What cannot be read is told as such.
pub(in crate::ca) fn lists(path: &Path) -> Revocation {
    let pem = match read("revocation lists", path, MAX_LIST_BYTES) {
        Ok(pem) => pem,
        Err(error) => return Revocation::Unreadable(error.to_string().into()),
    };
    let mut lists = Vec::new();
    for (index, der) in CertificateRevocationListDer::pem_slice_iter(&pem).enumerate() {
        match der {
            Ok(der) if x509_parser::parse_x509_crl(&der).is_ok() => lists.push(der),
            _ => {
                let path = path.display();
                return Revocation::Unreadable(format!("list {index} in {path} is broken").into());
            }
        }
    }
    if lists.is_empty() {
        let path = path.display();
        return Revocation::Unreadable(format!("{path} holds no list in PEM (X509 CRL)").into());
    }
    Revocation::Lists(lists)
}

fn read(what: &'static str, path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, RemoteError> {
    let failed = |error: std::io::Error| file(what, path, error.to_string());
    let opened = File::open(path).map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    if length > max {
        return Err(file(what, path, format!("it is longer than {max} bytes")));
    }
    // Room for all of it, so that no copy of a token is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    opened.take(max).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn file(what: &'static str, path: &Path, why: impl Into<Arc<str>>) -> RemoteError {
    RemoteError::File {
        what,
        path: path.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests;
