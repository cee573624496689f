//! The privileged tests: real kernel, real agent, real servers. They need root and run by
//! `cargo xtask test`; those that begin with `core_` run on the other kernels too.

mod apps;
mod badinput;
mod bench;
mod bpftool;
mod bulk;
mod capture;
mod demo;
mod fastopen;
mod guard;
mod harness;
mod hostile;
mod inbound;
mod inward;
mod lifecycle;
mod load;
mod neighbours;
mod older;
mod operation;
mod outbound;
mod pair;
mod restart;
mod services;
mod slice;
mod untouched;
