//! The Isthmus node agent.

pub mod addr;
pub mod admin;
pub mod cli;
pub mod identity;
pub mod observe;
