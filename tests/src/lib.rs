//! The harness of the privileged tests, used by `tests/mesh`, the demo and the bench.
//!
//! It builds a small world out of real parts and takes it down again, also after a panic:
//! a bridge in a network namespace of its own (the host's network is never touched), nodes
//! that run the real agent binary, pods that are a network namespace and a cgroup each, and
//! clients outside the mesh. Modules stand in the order in which a test meets them.

pub mod cluster;
pub mod mesh;

pub mod capabilities;
pub mod capture;
pub mod cgroup;
pub mod folder;
pub mod leftovers;
pub mod netns;
pub mod process;
pub mod report;
pub mod supervisor;
pub mod traffic;
pub mod wait;
