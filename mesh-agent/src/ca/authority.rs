//! The authority over its directory: signing, and what agents are told to trust.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;
use rustls::pki_types::{CertificateDer, ServerName};

use super::csr::{self, CheckedKey};
use super::journal::{self, Record};
use super::layout::{Layout, Locked};
use super::revoked::Revoked;
use super::signer::Signer;
use super::stamp::Stamp;
use super::state::State;
use super::{CaError, Changes, MakeError, SignError, crl, disk, pem, profile};
use crate::identity::{
    Clock, DomainTrust, Revocation, SpiffeId, TrustBundle, TrustDomain, TrustUpdate, leaf,
};

/// A certificate authority in a directory that other processes may use at the same
/// time. Its methods read and sync files: call them where blocking is allowed.
pub struct Authority {
    pub(super) layout: Layout,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) trust_domain: TrustDomain,
    /// The intermediate that signed last, by name.
    signer: Mutex<Option<(String, Arc<Signer>)>>,
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
    /// Opens an initialised directory. What a crash left half-written in its
    /// journal is removed.
    ///
    /// # Errors
    /// No authority there, files that others can read or write, or that do not
    /// belong together. Each names the file and the cure.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let layout = Layout::existing(dir)?;
        let locked = layout.lock()?;
        let state = locked.state()?;
        journal::repair(&locked.journal())?;
        Revoked::read(&locked.revoked())?;
        // Found out now and not when the first pod waits for its certificate.
        let signer = Signer::load(&locked.issuer(&state.active))?;
        state.root_certificates(&locked.state_file())?;
        let trust_domain = state.trust_domain().ok_or_else(|| CaError::Unreadable {
            path: locked.state_file(),
            expected: "the state of an authority with a valid trust domain",
        })?;
        drop(locked);
        Ok(Self {
            layout,
            clock,
            trust_domain,
            signer: Mutex::new(Some((state.active, Arc::new(signer)))),
        })
    }

    /// The trust domain whose workloads it certifies.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.layout.path()
    }

    /// Certifies a workload: checks the request (PKCS #10 in DER), writes the
    /// journal, syncs it, and only then returns. Valid for `lifetime`, which is
    /// brought between a minute and 24 h; 24 h without one; and never longer than
    /// the intermediate that signs.
    ///
    /// # Errors
    /// See [`SignError`]; [`SignError::fault`] says whose fault it is.
    pub fn sign(
        &self,
        csr: &[u8],
        requested: &SpiffeId,
        to: &Requester,
        lifetime: Option<Duration>,
    ) -> Result<Signed, SignError> {
        if *requested.trust_domain() != self.trust_domain {
            return Err(SignError::OtherTrustDomain {
                id: requested.clone(),
                ours: self.trust_domain.clone(),
            });
        }
        let key = csr::check_request(csr, requested)?;
        let locked = self.layout.lock()?;
        let identity = requested.to_string();
        // Under the lock: what another process revoked a moment ago counts.
        if Revoked::read(&locked.revoked())?.has_identity(&identity) {
            return Err(SignError::Revoked {
                id: requested.clone(),
            });
        }
        let lifetime = lifetime.unwrap_or(profile::LEAF_LIFETIME);
        self.issue(&locked, &key, identity, &to.node, lifetime, |now, end| {
            profile::workload(requested, now, end)
        })
    }

    /// Certifies the TLS server of the authority itself, under these names, for
    /// 24 h. The journal has it too.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign_server(
        &self,
        csr: &[u8],
        names: &[ServerName<'static>],
    ) -> Result<Signed, SignError> {
        if names.is_empty() {
            return Err(SignError::NoNames);
        }
        let key = csr::check_server_request(csr)?;
        let shown: Vec<_> = names.iter().map(ServerName::to_str).collect();
        let shown = format!("server {}", shown.join(" "));
        let locked = self.layout.lock()?;
        let lifetime = profile::LEAF_LIFETIME;
        self.issue(
            &locked,
            &key,
            shown,
            "the authority",
            lifetime,
            |now, end| profile::server(names, now, end),
        )
    }

    /// Roots, revocation lists and signing issuer, as they are on disk now. A
    /// damaged list is told inside, as [`Revocation::Unreadable`].
    ///
    /// # Errors
    /// [`CaError`] when the state itself cannot be read.
    pub fn trust(&self) -> Result<TrustUpdate, CaError> {
        let locked = self.layout.lock()?;
        let state = locked.state()?;
        let roots = state.root_certificates(&locked.state_file())?;
        let active = crl::unhex(&state.active).unwrap_or_default();
        let mut lists = Vec::new();
        let mut damage = None;
        for issuer in &state.issuers {
            match read_list(&locked, &issuer.name) {
                Ok(list) => lists.push(list.der),
                Err(why) => damage = Some(why),
            }
        }
        let revocation = match damage {
            None => Revocation::Lists(lists),
            Some(why) => Revocation::Unreadable(why.into()),
        };
        Ok(TrustUpdate {
            domain: DomainTrust {
                bundle: TrustBundle::new(self.trust_domain.clone(), roots),
                revocation,
            },
            issuer: Some(crate::identity::KeyId::new(&active)),
        })
    }

    /// Tells when [`Self::trust`] may answer otherwise, whichever process did it.
    ///
    /// # Errors
    /// [`CaError::Io`] where the directory cannot be watched.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn changes(&self) -> Result<Changes, CaError> {
        Changes::of(&self.layout)
    }

    /// The intermediate that signs now.
    pub(super) fn signer(
        &self,
        locked: &Locked<'_>,
        state: &State,
    ) -> Result<Arc<Signer>, CaError> {
        let mut kept = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, signer)) = &*kept
            && *name == state.active
        {
            return Ok(Arc::clone(signer));
        }
        let signer = Arc::new(Signer::load(&locked.issuer(&state.active))?);
        *kept = Some((state.active.clone(), Arc::clone(&signer)));
        Ok(signer)
    }

    fn issue(
        &self,
        locked: &Locked<'_>,
        key: &CheckedKey,
        identity: String,
        node: &str,
        lifetime: Duration,
        params: impl FnOnce(SystemTime, SystemTime) -> Result<CertificateParams, MakeError>,
    ) -> Result<Signed, SignError> {
        let now = self.clock.now();
        let mut state = locked.state()?;
        self.promote_if_due(locked, &mut state, now)?;
        let signer = self.signer(locked, &state)?;
        if now > signer.not_after() {
            return Err(SignError::Expired(signer.not_after()));
        }
        let lifetime = lifetime.clamp(profile::LEAF_LEAST, profile::LEAF_LIFETIME);
        let end = Stamp::new((now + lifetime).min(signer.not_after()));
        let leaf = signer.sign(&params(now, end.time())?, key.key())?;
        let serial = serial_of(&leaf)?;
        let record = Record {
            time: Stamp::new(now),
            serial: serial.clone(),
            identity,
            node: node.to_owned(),
            not_after: end,
            issuer: state.active.clone(),
        };
        journal::append(&locked.journal(), &record)?;
        let mut chain = vec![leaf];
        chain.extend_from_slice(signer.chain());
        Ok(Signed {
            chain,
            roots: state.root_certificates(&locked.state_file())?,
            serial,
            not_after: end.time(),
        })
    }
}

/// The published list of an intermediate, or why there is none.
pub(super) fn read_list(locked: &Locked<'_>, issuer: &str) -> Result<crl::List, String> {
    let files = locked.issuer(issuer);
    let chain = disk::read(&files.chain()).map_err(|error| error.to_string())?;
    let chain = pem::certificates(&chain, &files.chain()).map_err(|error| error.to_string())?;
    let text = disk::read(&files.list()).map_err(|error| error.to_string())?;
    crl::read(&text, &chain[0]).map_err(|why| format!("{}: {why}", files.list().display()))
}

/// The serial number in a certificate that was just made.
pub(super) fn serial_of(certificate: &[u8]) -> Result<String, MakeError> {
    leaf::parse(certificate)
        .map(|certificate| leaf::hex(certificate.raw_serial()))
        .map_err(|_| MakeError::Crypto(rcgen::Error::CouldNotParseCertificate))
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.layout.path())
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
