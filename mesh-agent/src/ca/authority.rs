//! The authority over its directory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName};

use super::{CaError, Changes, SignError};
use crate::identity::{Clock, SpiffeId, TrustDomain, TrustUpdate};

/// A certificate authority in a directory. Its methods read and sync files: call
/// them where blocking is allowed.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
}

/// Who asked for a certificate, for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The node for whose pod it is.
    pub node: Arc<str>,
}

/// A certificate that was issued, and is in the journal.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The leaf, then intermediates; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trusted roots at that moment.
    pub roots: Vec<CertificateDer<'static>>,
    /// The leaf's serial number in lower-case hex.
    pub serial: String,
    /// The last second of the leaf's validity.
    pub not_after: SystemTime,
}

impl Authority {
    /// Opens an initialised directory.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let _ = (dir, clock);
        todo!()
    }

    /// The trust domain whose workloads it certifies.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Certifies a workload: checks the request (PKCS #10 in DER), writes the
    /// journal, syncs it, and only then returns. Without `lifetime`, 24 h; never
    /// more than that.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(
        &self,
        csr: &[u8],
        requested: &SpiffeId,
        to: &Requester,
        lifetime: Option<Duration>,
    ) -> Result<Signed, SignError> {
        let _ = (csr, requested, to, lifetime);
        todo!()
    }

    /// Certifies the TLS server of the authority itself, under these names. The
    /// journal has it too.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign_server(
        &self,
        csr: &[u8],
        names: &[ServerName<'static>],
    ) -> Result<Signed, SignError> {
        let _ = (csr, names);
        todo!()
    }

    /// Roots, revocation lists and signing issuer, as they are on disk now. A
    /// damaged list is told inside, as [`crate::identity::Revocation::Unreadable`].
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn trust(&self) -> Result<TrustUpdate, CaError> {
        todo!()
    }

    /// Tells when [`Self::trust`] may answer otherwise, whichever process did it.
    ///
    /// # Errors
    /// [`CaError::Io`] where the directory cannot be watched.
    pub fn changes(&self) -> Result<Changes, CaError> {
        todo!()
    }

    /// What must be done in time: call it every minute.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn tend(&self) -> Result<(), CaError> {
        todo!()
    }
}
