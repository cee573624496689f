//! The Isthmus node agent.

pub mod addr;
pub mod config;
pub mod identity;
pub mod model;
