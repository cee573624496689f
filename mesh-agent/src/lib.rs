//! The Isthmus node agent.

pub mod addr;
pub mod hbone;
pub mod identity;
pub mod relay;
