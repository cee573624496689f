//! Who a workload is: SPIFFE identities, and (in the submodules) the authority
//! that certifies them. The proxy asks this module for certificates and for the
//! identity in a peer's certificate; it never builds either itself.

mod spiffe;

pub use spiffe::{IdentityError, SpiffeId, TrustDomain};
