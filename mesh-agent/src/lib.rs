//! The Isthmus node agent, in the order in which one connection meets its parts.
//!
//! 1. An application in pod A calls `connect()`. The kernel programs that
//!    [`intercept`] attached to the pods' cgroup write down where it wanted to go
//!    and send it to the agent's listener inside pod A, which [`netns`] opened.
//! 2. A worker of the [`proxy`] accepts it and takes the original destination
//!    ([`addr`]) from the kernel. Who is calling is settled by the kernel's own
//!    facts, the namespace and cgroup of the socket, never by an address.
//! 3. The [`model`], which [`config`] keeps up to date out of files or of the [`kubernetes`] API,
//!    with what the [`node`] itself knows of its pods, tells whose the destination is; [`policy`] decides, and its permit is what the next step asks for.
//! 4. The agent opens a tunnel to the destination's node, as pod A's [`identity`], which a
//!    [`ca`] certifies, over mutual [`tls`], and asks for the destination in the words of [`hbone`].
//! 5. On the other node, `sk_lookup` brings the tunnel to the agent's listener
//!    inside pod B. That agent proves to be pod B, learns who pod A is, asks its own
//!    [`policy`], and dials the application over pod B's own address.
//! 6. The [`relay`] carries bytes, half-closes and resets in both directions, within the pod's
//!    [`budget`] of descriptors and buffered bytes.
//! 7. [`observe`] writes the connection's one line and moves the counters; [`explain`]
//!    says why policy spoke as it did, [`simulate`] what it would say under another
//!    configuration, [`lint`] what is wrong with one; [`admin`] and [`cli`] show them.
//!    [`install`] brings all of it into a cluster.
//!
//! [`agent`] starts all this, brings pods in and out of the mesh, and ends it. In a cluster,
//! [`status`] writes back to the Kubernetes API what came of its objects.

pub mod intercept;

pub mod netns;

pub mod proxy;

pub mod addr;

pub mod model;

pub mod config;

pub mod kubernetes;

pub mod node;

pub mod policy;

pub mod identity;

pub mod ca;

pub mod tls;

mod handshakes;

pub mod budget;

pub mod hbone;

pub mod relay;

pub mod observe;

pub mod explain;

pub mod simulate;

pub mod lint;

pub mod admin;

pub mod install;

pub mod cli;

pub mod status;

pub mod agent;

pub mod coredump;

pub mod heap;

mod cause;
