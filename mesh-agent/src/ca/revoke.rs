//! Revoking certificates and identities, and restoring the latter. What was
//! revoked is written first, then the lists are signed: after a crash in between,
//! the next `tend` signs them.

use std::fmt::Display;

use super::journal::Record;
use super::revoked::{Revoked, RevokedCertificate, RevokedIdentity, matters};
use super::stamp::Stamp;
use super::{Authority, CaError, Reason, journal, tend};

/// What a revocation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// Serials of the certificates that are refused from now on, in hex. Those
    /// that were revoked already, or have expired, are not among them.
    pub serials: Vec<String>,
    /// How many lists were signed anew.
    pub lists: usize,
}

impl Authority {
    /// Revokes one certificate. Its identity can get another.
    ///
    /// # Errors
    /// [`CaError::UnknownSerial`] for a serial that is not in the journal.
    pub fn revoke_serial(&self, serial: &str, reason: Reason) -> Result<Revocations, CaError> {
        let serial = plain(serial);
        let found = self.revoke(reason, |record| record.serial == serial, None)?;
        found.ok_or_else(|| CaError::UnknownSerial {
            serial,
            dir: self.layout.path().to_owned(),
        })
    }

    /// Revokes all certificates of an identity; it gets no other until
    /// [`Self::restore`].
    ///
    /// # Errors
    /// [`CaError`] when the directory cannot be read or written.
    pub fn revoke_identity(
        &self,
        id: &impl Display,
        reason: Reason,
    ) -> Result<Revocations, CaError> {
        let identity = id.to_string();
        let found = self.revoke(
            reason,
            |record| record.identity == identity,
            Some(&identity),
        )?;
        Ok(found.unwrap_or(Revocations {
            serials: Vec::new(),
            lists: 0,
        }))
    }

    /// Lets an identity get certificates again. Those that were revoked stay so.
    ///
    /// # Errors
    /// [`CaError::NotRevoked`].
    pub fn restore(&self, id: &impl Display) -> Result<(), CaError> {
        let locked = self.layout.lock()?;
        let mut revoked = Revoked::read(&locked.revoked())?;
        let identity = id.to_string();
        if !revoked.has_identity(&identity) {
            return Err(CaError::NotRevoked { id: identity });
        }
        revoked
            .identities
            .retain(|entry| entry.identity != identity);
        revoked.write(&locked.revoked())
    }

    /// `None` when the journal has nothing that is `meant`.
    fn revoke(
        &self,
        reason: Reason,
        meant: impl Fn(&Record) -> bool,
        identity: Option<&str>,
    ) -> Result<Option<Revocations>, CaError> {
        let locked = self.layout.lock()?;
        let now = self.clock.now();
        let time = Stamp::new(now);
        let state = locked.state()?;
        let mut revoked = Revoked::read(&locked.revoked())?;
        revoked.forget_expired(now);
        let (mut found, mut serials) = (identity.is_some(), Vec::new());
        journal::read(&locked.journal(), |record| {
            if !meant(&record) {
                return;
            }
            found = true;
            let end = record.not_after.time();
            if !matters(end, now) || revoked.has_serial(&record.serial) {
                return;
            }
            if end >= now {
                serials.push(record.serial.clone());
            }
            revoked.certificates.push(RevokedCertificate {
                serial: record.serial,
                identity: record.identity,
                issuer: record.issuer,
                time,
                reason,
                not_after: record.not_after,
            });
        })?;
        if !found {
            return Ok(None);
        }
        if let Some(identity) = identity.filter(|identity| !revoked.has_identity(identity)) {
            revoked.identities.push(RevokedIdentity {
                identity: identity.to_owned(),
                time,
                reason,
            });
        }
        revoked.write(&locked.revoked())?;
        let lists = tend::publish(&locked, &state, &revoked, now)?;
        Ok(Some(Revocations { serials, lists }))
    }
}

/// A serial as the journal has it: OpenSSL prints upper case and colons.
fn plain(serial: &str) -> String {
    let serial = serial.trim();
    let serial = serial.strip_prefix("0x").unwrap_or(serial);
    serial
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests;
