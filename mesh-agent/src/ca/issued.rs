//! What was issued, for people and programs, and certifying another machine's
//! intermediate with the root in this directory.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::Serialize;

use super::authority::serial_of;
use super::journal::{self, Record};
use super::revoked::Revoked;
use super::stamp::Stamp;
use super::{Authority, CaError, csr, disk, make, profile};
use crate::identity::clock::display;

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When, RFC 3339.
    pub time: String,
    /// Its serial number in lower-case hex.
    pub serial: String,
    /// The SPIFFE ID in it, or the names of a server.
    pub identity: String,
    /// The node that asked.
    pub node: String,
    /// Its last second, RFC 3339.
    pub not_after: String,
    /// Key identifier of who signed, in hex.
    pub issuer: String,
    /// Whether it is `valid`, `expired` or `revoked`.
    pub state: &'static str,
}

impl Authority {
    /// What was issued, oldest first: of one identity or all, with what has
    /// expired or without.
    ///
    /// # Errors
    /// [`CaError::JournalDamaged`], and what the system refuses.
    pub fn issued(&self, identity: Option<&str>, expired: bool) -> Result<Vec<Entry>, CaError> {
        let locked = self.layout.lock()?;
        let now = self.clock.now();
        let revoked = Revoked::read(&locked.revoked())?;
        let mut found = Vec::new();
        journal::read(&locked.journal(), |record| {
            let is_over = record.not_after.time() < now;
            let other = identity.is_some_and(|identity| identity != record.identity);
            if other || (is_over && !expired) {
                return;
            }
            found.push(Entry {
                state: match (is_over, revoked.has_serial(&record.serial)) {
                    (true, _) => "expired",
                    (_, true) => "revoked",
                    _ => "valid",
                },
                time: display(record.time.time()),
                not_after: display(record.not_after.time()),
                serial: record.serial,
                identity: record.identity,
                node: record.node,
                issuer: record.issuer,
            });
        })?;
        Ok(found)
    }

    /// The trusted roots in PEM.
    ///
    /// # Errors
    /// [`CaError`] when the state cannot be read.
    pub fn roots_pem(&self) -> Result<String, CaError> {
        Ok(self.layout.lock()?.state()?.roots_pem())
    }

    /// Signs an intermediate for another machine, from its request in a PEM file,
    /// with the root whose key is here.
    ///
    /// # Errors
    /// [`CaError::Request`] with the reason, [`CaError::NoRootKey`].
    pub fn certify_intermediate(&self, request: &Path) -> Result<CertificateDer<'static>, CaError> {
        let text = disk::read(request)?;
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_| {
            CaError::Unreadable {
                path: request.to_owned(),
                expected: "a certificate signing request in PEM",
            }
        })?;
        let key = csr::check_intermediate_request(&der, &self.trust_domain).map_err(|source| {
            CaError::Request {
                path: request.to_owned(),
                source,
            }
        })?;
        let locked = self.layout.lock()?;
        let state = locked.state()?;
        let now = self.clock.now();
        let Some(root) = state.root(state.active_root()) else {
            return Err(CaError::NotInitialised {
                dir: locked.path().to_owned(),
            });
        };
        let signer = make::root_signer(&locked, root)?;
        let params = profile::intermediate(&self.trust_domain, now, signer.not_after())?;
        let end = Stamp::new((now + profile::INTERMEDIATE_LIFETIME).min(signer.not_after()));
        let certificate = signer.sign(&params, key.key())?;
        let record = Record {
            time: Stamp::new(now),
            serial: serial_of(&certificate)?,
            identity: profile::uri_of(&self.trust_domain),
            node: "an intermediate".into(),
            not_after: end,
            issuer: signer.key_id().to_string(),
        };
        journal::append(&locked.journal(), &record)?;
        Ok(certificate)
    }
}
