//! The Isthmus node agent.

pub mod addr;
pub mod identity;
pub mod intercept;
