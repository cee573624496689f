//! The mesh in a real Kubernetes cluster of two nodes. `cargo xtask cluster test [NAME]` brings
//! the cluster up and runs these; none of them runs without it.

mod disruption;
mod gate;
mod kustomize;
mod labels;
mod loss;
mod network_policies;
mod orphans;
mod plain;
mod policies;
mod power;
mod probes;
mod reboot;
mod remote;
mod services;
mod statuses;
mod uninstall;
mod upgrade;
mod validation;
