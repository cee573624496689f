//! The privileged tests: real kernel, real agent, real servers. They need root and run by
//! `cargo xtask test`; those that begin with `core_` run on the other kernels too.

mod bulk;
mod foreign;
mod harness;
mod inbound;
mod pair;
mod slice;
mod wire;
mod wire_peer;
mod wire_server;
mod ztunnel;
