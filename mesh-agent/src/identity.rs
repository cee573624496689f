//! Who a workload is: SPIFFE identities, the authority that certifies them, and
//! the store that keeps one fresh certificate per identity. The proxy asks this
//! module for certificates and for the identity in a peer's certificate; it
//! never builds either itself.

mod authority;
pub(crate) mod clock;
#[cfg(test)]
pub(crate) mod fixtures;
mod form;
pub(crate) mod leaf;
pub mod pem;
mod spiffe;
mod store;
mod svid;
mod trust;

pub use authority::{BoxFuture, CertificateAuthority, IssueError, Issued};
pub(crate) use clock::display as display_time;
pub use clock::{Clock, SystemClock};
pub use form::{IdForms, IdTemplate, SpiffeUri, TemplateError};
pub(crate) use leaf::subject_and_end;
pub use leaf::{PeerIdentityError, leaf_identity, peer_identity};
pub use pem::PemError;
pub use spiffe::{IdentityError, SpiffeId, TrustDomain};
pub use store::{Credential, CredentialError, SvidInfo, SvidStore};
pub use svid::{Svid, SvidError, TrustBundle};
pub(crate) use trust::{Anchors, List, Lists};
pub use trust::{
    DomainTrust, KeyId, NameProofs, Revocation, RevocationStatus, StaleLists, Trust, TrustStore,
    TrustUpdate,
};
