//! Certificate authorities: the mesh's own, over a directory that several
//! processes share, and what speaks to one. The agent and `mesh-agent ca` call it.
//!
//! [`Authority`] is the one that signs. Everything it is lives in its directory:
//! see the module `layout` for the files and for why a crash leaves the old state or the new.

mod authority;
mod changes;
mod error;
mod files;

pub use authority::{Authority, Requester, Signed};
pub use changes::Changes;
pub use error::{CaError, SignError};
pub use files::{FileCertificates, FileError};
