//! The privileged tests: real kernel, real agent, real servers. They need root and run by
//! `cargo xtask test`; those that begin with `core_` run on the other kernels too.

mod pair;

mod harness;

mod capture;
mod guard;
mod inbound;
mod outbound;

mod bulk;
mod lifecycle;
mod load;
mod restart;

mod badinput;
mod hostile;
mod operation;

mod apps;
