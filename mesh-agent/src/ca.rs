//! The certificate authority, and everything that speaks to one: the gRPC interface,
//! who may ask for what, the server of `mesh-agent ca serve`, and the client with
//! which an agent uses it or any other authority with Istio's interface.

pub mod api;
pub mod authorize;
pub mod client;
pub mod server;
pub mod tokens;
