//! The Isthmus node agent.

pub mod addr;
pub mod admin;
pub mod identity;
pub mod observe;
