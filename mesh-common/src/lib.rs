//! What the kernel programs and the agent must agree on: the shapes of the
//! maps, the names of what is pinned, and the decisions themselves. The
//! decisions are plain functions so that the host can test them; the kernel
//! programs (`mesh-ebpf`) only fetch arguments and act on the verdict, and the
//! agent's `intercept` module fills the maps.
#![no_std]

pub mod connect;
pub mod counters;
pub mod device;
pub mod event;
pub mod guard;
pub mod handshake;
pub mod ip;
pub mod maps;
pub mod names;
pub mod probe;

/// Version of the map shapes and of their meaning. Raise it with every change
/// that an older kernel program or agent would misread: an agent refuses to
/// take over pins of another version.
pub const ABI_VERSION: u32 = 3;
