//! The mesh in a real Kubernetes cluster of two nodes. `cargo xtask cluster test [NAME]` brings
//! the cluster up and runs these; none of them runs without it.

mod disruption;
mod gate;
mod loss;
mod plain;
mod power;
mod reboot;
mod uninstall;
mod upgrade;
