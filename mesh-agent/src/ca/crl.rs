//! Signed revocation lists (RFC 5280 §5), one for each intermediate.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::profile::CLOCK_SKEW;
use super::revoked::{Reason, RevokedCertificate};
use super::signer::Signer;
use super::{MakeError, pem};
use crate::identity::leaf;

/// How long a list is valid: an authority may be away for a night before peers
/// that are told to be strict refuse.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A list that was read, and whose signature is its issuer's.
pub(super) struct List {
    pub(super) der: CertificateRevocationListDer<'static>,
    number: u64,
    this_update: SystemTime,
    serials: BTreeSet<String>,
}

/// Signs the list of what `signer` issued and `revoked` names. `last` is the
/// number of the list before it.
pub(super) fn make(
    signer: &Signer,
    revoked: &[RevokedCertificate],
    last: Option<u64>,
    now: SystemTime,
) -> Result<String, MakeError> {
    let name = signer.key_id().to_string();
    let entry = |entry: &RevokedCertificate| -> Option<RevokedCertParams> {
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&unhex(&entry.serial)?),
            revocation_time: entry.time.time().into(),
            reason_code: code(entry.reason),
            invalidity_date: None,
        })
    };
    let revoked_certs = revoked
        .iter()
        .filter(|entry| entry.issuer == name)
        .map(|revoked| entry(revoked).ok_or(MakeError::Serial(revoked.serial.clone())))
        .collect::<Result<_, _>>()?;
    // Seconds since 1970: rises even when the list before was lost.
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let number = last.map_or(seconds, |last| seconds.max(last.saturating_add(1)));
    let list = CertificateRevocationListParams {
        this_update: (now - CLOCK_SKEW).into(),
        next_update: (now + LIFETIME).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::PreSpecified(signer.key_id().as_bytes().to_vec()),
    };
    Ok(list.signed_by(signer.issuer())?.pem()?)
}

/// Reads a list in PEM that `issuer` signed. Says in a few words what is wrong
/// with another.
pub(super) fn read(text: &str, issuer: &[u8]) -> Result<List, &'static str> {
    let der = pem::list(text).ok_or("not a revocation list in PEM")?;
    let (this_update, serials, number) = {
        let issuer = leaf::parse(issuer).map_err(|_| "its issuer cannot be read")?;
        let Ok(([], list)) = CertificateRevocationList::from_der(&der) else {
            return Err("not a revocation list in DER");
        };
        check_issuer(&list, &issuer)?;
        let serials = list
            .iter_revoked_certificates()
            .map(|entry| leaf::hex(entry.raw_serial()))
            .collect();
        let number = list.crl_number().and_then(|number| number.try_into().ok());
        let this_update =
            leaf::system_time(list.last_update()).map_err(|_| "it is not of our time")?;
        (this_update, serials, number.unwrap_or(0))
    };
    Ok(List {
        der,
        number,
        this_update,
        serials,
    })
}

fn check_issuer(
    list: &CertificateRevocationList<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<(), &'static str> {
    if list.issuer().as_raw() != issuer.subject().as_raw() {
        return Err("it names another issuer");
    }
    list.verify_signature(issuer.public_key())
        .map_err(|_| "its signature is not its issuer's")
}

impl List {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether another must take its place: because it does not name what it
    /// should, or because half of its life is over.
    pub(super) fn is_outdated(
        &self,
        name: &str,
        revoked: &[RevokedCertificate],
        now: SystemTime,
    ) -> bool {
        let wanted = revoked.iter().filter(|entry| entry.issuer == name);
        let wanted: BTreeSet<&str> = wanted.map(|entry| entry.serial.as_str()).collect();
        let named = self.serials.iter().map(String::as_str);
        let age = now.duration_since(self.this_update);
        !wanted.into_iter().eq(named) || age.is_ok_and(|age| age > LIFETIME / 2)
    }
}

fn code(reason: Reason) -> Option<RevocationReason> {
    match reason {
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
        Reason::Superseded => Some(RevocationReason::Superseded),
        Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
    }
}

/// The bytes that a text in hex stands for.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
