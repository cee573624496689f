//! Certificate authorities: the mesh's own, over a directory that several
//! processes share, and what speaks to one. The agent and `mesh-agent ca` call it.
//!
//! [`Authority`] is the one that signs. Everything it is lives in its directory:
//! see the module `layout` for the files and for why a crash leaves the old state
//! or the new. [`server`] puts it on the network: [`api`] is what goes over the wire,
//! [`authorize`] decides who may ask for what, by the node [`tokens`] or by the Kubernetes
//! API, where its roots are [`published`] too. [`client`] is how
//! an agent uses that server, or any other authority with Istio's interface.

pub mod api;
mod authority;
pub mod authorize;
#[cfg(test)]
mod bed;
mod changes;
pub mod client;
mod crl;
mod csr;
mod disk;
mod embedded;
mod error;
mod files;
mod import;
mod init;
mod issued;
mod journal;
mod layout;
mod make;
pub(crate) mod pem;
mod profile;
pub mod published;
mod revoke;
mod revoked;
mod rotate;
pub mod server;
mod signer;
mod stamp;
mod state;
mod tend;
pub mod tokens;

pub use authority::{Authority, Requester, Signed};
pub use changes::Changes;
pub use csr::{CheckedKey, CsrError, MAX_REQUEST, check_request};
pub use embedded::{EmbeddedCa, make_request};
pub use error::{CaError, Fault, MakeError, SignError};
pub use files::{FileCertificates, FileError};
pub use init::{init, init_with_chain, open_or_init, request_intermediate};
pub use issued::Entry;
pub use revoke::Revocations;
pub use revoked::Reason;
pub use rotate::{RotationStatus, Step};
