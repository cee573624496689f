//! The kernel programs and the interceptor on a real kernel, without the rest
//! of the agent: what is caught, what is left alone, what the guard drops, and
//! what a restart finds.
#![expect(
    unsafe_code,
    reason = "sockets of kinds that std does not make, and fork"
)]

mod bed;
mod guard;
mod handshakes;
mod inbound;
mod kubelet;
mod netlink;
mod outbound;
mod restart;
