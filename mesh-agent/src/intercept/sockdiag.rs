//! Ends TCP connections that go around the mesh: those that a pod had before it
//! was enrolled, when its policy is STRICT. The kernel lists a namespace's
//! sockets with their cgroups and resets what it is told to (sock_diag(7),
//! SOCK_DESTROY of Linux 4.5). Called by `agent` when it enrols a pod.
//!
//! A connection that still waits for its handshake's end is not listed with a
//! cgroup; the guard keeps it from ending.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use mesh_common::ip::is_local;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::{cgroup, ip_of};

mod message;

use message::{Listed, Reply};

/// How often the list is read anew: the kernel may skip sockets while others
/// come and go, but each pass leaves fewer.
const PASSES: usize = 4;
/// Bytes of one read; the kernel fills up to 32 KiB at a time in a dump.
const BUFFER: usize = 64 * 1024;

/// A connection of a pod that goes around the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bypass {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The cgroup of the socket, the pod's or one below it.
    pub cgroup_id: u64,
    /// The socket's cookie, which no other ever has.
    pub cookie: u64,
}

/// The TCP connections of the calling thread's network namespace that
/// [`destroy_plaintext`] would reset.
///
/// # Errors
/// Those of listing, as for [`destroy_plaintext`].
pub fn bypassing(cgroup: &Path, addresses: &[IpAddr]) -> io::Result<Vec<Bypass>> {
    let cgroup_ids = cgroup::ids_within(cgroup)?;
    let netlink = open()?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let listed = list(&netlink, family as u8)?;
        let around = listed
            .iter()
            .filter(|it| is_plaintext(it, &cgroup_ids, addresses));
        found.extend(around.map(bypass));
    }
    Ok(found)
}

/// Resets every TCP connection of the calling thread's network namespace whose
/// socket belongs to `cgroup` or to one below it, and that is not within the
/// pod, which has `addresses`. The agent's own sockets in the namespace are in
/// another cgroup and stay. Connections that the mesh carries lead to the pod's
/// own address and stay too.
///
/// # Errors
/// Those of listing; ENOENT when the kernel cannot list TCP sockets (its modules
/// inet_diag and tcp_diag are neither loaded nor to be found), EOPNOTSUPP when
/// it has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY). A socket that ended by
/// itself is no error.
pub fn destroy_plaintext(cgroup: &Path, addresses: &[IpAddr]) -> io::Result<Vec<Bypass>> {
    destroy_unless(cgroup, addresses, |_| false)
}

/// [`destroy_plaintext`] of those that `keep` does not spare.
///
/// # Errors
/// As for [`destroy_plaintext`].
pub fn destroy_unless(
    cgroup: &Path,
    addresses: &[IpAddr],
    keep: impl Fn(&Bypass) -> bool,
) -> io::Result<Vec<Bypass>> {
    let cgroup_ids = cgroup::ids_within(cgroup)?;
    let netlink = open()?;
    let mut destroyed = Vec::new();
    for _ in 0..PASSES {
        let before = destroyed.len();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for listed in list(&netlink, family as u8)? {
                let found = bypass(&listed);
                if !is_plaintext(&listed, &cgroup_ids, addresses) || keep(&found) {
                    continue;
                }
                if destroy(&netlink, &listed)? {
                    destroyed.push(found);
                }
            }
        }
        if destroyed.len() == before {
            break;
        }
    }
    Ok(destroyed)
}

/// Whether the running kernel has SOCK_DESTROY, asked by ending a socket that
/// does not exist, once it is known that the kernel can look for one.
pub(super) fn is_supported() -> io::Result<bool> {
    let netlink = open()?;
    list(&netlink, libc::AF_INET as u8)?;
    match destroy(&netlink, &Listed::nowhere()) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

fn bypass(listed: &Listed) -> Bypass {
    Bypass {
        local: listed.local,
        remote: listed.remote,
        cgroup_id: listed.cgroup_id.unwrap_or(0),
        cookie: listed.cookie(),
    }
}

fn is_plaintext(listed: &Listed, cgroup_ids: &[u64], addresses: &[IpAddr]) -> bool {
    let of_the_pod = listed.cgroup_id.is_some_and(|id| cgroup_ids.contains(&id));
    let (local, remote) = (listed.local.ip(), listed.remote.ip());
    let within = is_local(&ip_of(remote), &ip_of(local)) || addresses.contains(&remote);
    of_the_pod && !within
}

fn open() -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    Ok(netlink)
}

fn list(netlink: &OwnedFd, family: u8) -> io::Result<Vec<Listed>> {
    send(
        netlink.as_raw_fd(),
        &message::list(family),
        MsgFlags::empty(),
    )?;
    let mut listed = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for reply in message::replies(&buffer[..length]) {
            match reply {
                Reply::Socket(socket) => listed.push(socket),
                Reply::Done => return Ok(listed),
                Reply::Error(0) | Reply::Unknown => {}
                Reply::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

/// `false` when it is gone already.
fn destroy(netlink: &OwnedFd, listed: &Listed) -> io::Result<bool> {
    send(
        netlink.as_raw_fd(),
        &message::destroy(listed),
        MsgFlags::empty(),
    )?;
    let mut buffer = [0; 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for reply in message::replies(&buffer[..length]) {
            match reply {
                Reply::Error(0) => return Ok(true),
                Reply::Error(libc::ENOENT) => return Ok(false),
                Reply::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Reply::Socket(_) | Reply::Done | Reply::Unknown => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr;

    fn listed(local: &str, remote: &str, cgroup_id: Option<u64>) -> Listed {
        let mut listed = Listed::nowhere();
        listed.local = addr::canonical(local.parse().unwrap());
        listed.remote = addr::canonical(remote.parse().unwrap());
        listed.cgroup_id = cgroup_id;
        listed
    }

    #[test]
    fn only_what_leaves_the_pod_and_belongs_to_it_is_plaintext() {
        let own = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for (local, remote, cgroup_id, expected) in [
            ("10.0.0.1:5", "10.0.0.2:80", Some(7), true),
            ("10.0.0.1:5", "10.0.0.2:80", Some(8), true),
            ("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:80", Some(7), true),
            ("[fd00::1]:5", "[fd00::2]:80", Some(7), true),
            // The agent's own, and one whose cgroup is not told.
            ("10.0.0.1:5", "10.0.0.2:80", Some(1), false),
            ("10.0.0.1:5", "10.0.0.2:80", None, false),
            // Within the pod, redirected ones included.
            ("10.0.0.1:5", "10.0.0.1:40000", Some(7), false),
            ("127.0.0.1:5", "127.0.0.1:80", Some(7), false),
            ("127.0.0.1:5", "10.0.0.1:80", Some(7), false),
            ("[::1]:5", "[::1]:80", Some(7), false),
            (
                "[::ffff:10.0.0.1]:5",
                "[::ffff:10.0.0.1]:80",
                Some(7),
                false,
            ),
            ("10.9.9.9:5", "10.0.0.1:80", Some(7), false),
        ] {
            let listed = listed(local, remote, cgroup_id);
            assert_eq!(
                is_plaintext(&listed, &[7, 8], &own),
                expected,
                "{local} {remote}"
            );
        }
    }
}
