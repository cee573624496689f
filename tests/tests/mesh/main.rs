//! The privileged tests: real kernel, real agent, real servers. They need root and run by
//! `cargo xtask test`; those that begin with `core_` run on the other kernels too.

mod pair;

mod bpftool;
mod capture;
mod fastopen;
mod guard;
mod harness;
mod inward;
mod older;
mod outbound;
mod services;
mod slice;
mod untouched;
