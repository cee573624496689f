//! The privileged tests: real kernel, real agent, real servers. They need root and run by
//! `cargo xtask test`; those that begin with `core_` run on the other kernels too.

mod apps;
mod asked;
mod badinput;
mod bench;
mod bulk;
mod capture;
mod check;
mod demo;
mod guard;
mod harness;
mod hostile;
mod inbound;
mod lifecycle;
mod load;
mod many;
mod operation;
mod outbound;
mod pair;
mod postgres;
mod reborn;
mod restart;
mod slice;
mod strict;
