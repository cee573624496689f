//! The messages of sock_diag(7), byte by byte: requests to list and to end TCP
//! sockets, and the replies. Layouts from the kernel's uapi/linux/netlink.h and
//! uapi/linux/inet_diag.h.

use std::net::{IpAddr, SocketAddr};

use crate::addr;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Bytes of `struct inet_diag_msg`.
const LISTED: usize = 4 + SOCKET_ID + 20;
/// Every TCP state that has a connection: neither TIME_WAIT (6), nor CLOSE (7),
/// nor LISTEN (10), nor NEW_SYN_RECV (12), which is listed without a cgroup.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// One socket of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// `None` for sockets that the kernel lists without it.
    pub(super) cgroup_id: Option<u64>,
    family: u8,
    /// As the kernel gave it, cookie included, so that it finds this very
    /// socket again and no other.
    id: [u8; SOCKET_ID],
}

impl Listed {
    /// The socket's cookie: its lower half first, each in the machine's order.
    pub(super) fn cookie(&self) -> u64 {
        let half = |at| array(&self.id, at).map_or(0, u32::from_ne_bytes);
        u64::from(half(44)) << 32 | u64::from(half(40))
    }

    /// A socket that does not exist.
    pub(super) fn nowhere() -> Self {
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut id = [0; SOCKET_ID];
        // 240.0.0.1:9 to itself, with no cookie.
        for at in [0, 2] {
            id[at..at + 2].copy_from_slice(&9u16.to_be_bytes());
        }
        for at in [4, 20] {
            id[at..at + 4].copy_from_slice(&[240, 0, 0, 1]);
        }
        id[40..].fill(0xff);
        Self {
            local: nowhere,
            remote: nowhere,
            cgroup_id: None,
            family: libc::AF_INET as u8,
            id,
        }
    }
}

/// What a message from the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A socket of the list.
    Socket(Listed),
    /// The list is complete.
    Done,
    /// An errno, or 0 for success.
    Error(i32),
    /// Of a kind or shape that is not known here.
    Unknown,
}

/// A request for all connected TCP sockets of a family.
pub(super) fn list(family: u8) -> Vec<u8> {
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    request(SOCK_DIAG_BY_FAMILY, flags, family, &[0; SOCKET_ID])
}

/// A request to end a socket.
pub(super) fn destroy(listed: &Listed) -> Vec<u8> {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    request(SOCK_DESTROY, flags, listed.family, &listed.id)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let length = HEADER + 8 + SOCKET_ID;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(CONNECTED.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// The messages in what one read returned.
pub(super) fn replies(bytes: &[u8]) -> impl Iterator<Item = Reply> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(array(rest, 0)?) as usize;
        let kind = u16::from_ne_bytes(array(rest, 4)?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(match kind {
            NLMSG_DONE => Reply::Done,
            NLMSG_ERROR => array(body, 0).map_or(Reply::Unknown, |errno| {
                Reply::Error(i32::from_ne_bytes(errno).saturating_neg())
            }),
            SOCK_DIAG_BY_FAMILY => socket(body).map_or(Reply::Unknown, Reply::Socket),
            _ => Reply::Unknown,
        })
    })
}

fn socket(body: &[u8]) -> Option<Listed> {
    let family = *body.first()?;
    let id: [u8; SOCKET_ID] = array(body, 4)?;
    let address = |ip: usize, port: usize| {
        let ip: IpAddr = match i32::from(family) {
            libc::AF_INET => array::<4>(&id, ip)?.into(),
            libc::AF_INET6 => array::<16>(&id, ip)?.into(),
            _ => return None,
        };
        let port = u16::from_be_bytes(array(&id, port)?);
        Some(addr::canonical(SocketAddr::new(ip, port)))
    };
    Some(Listed {
        local: address(4, 0)?,
        remote: address(20, 2)?,
        cgroup_id: cgroup_id(body.get(LISTED..)?),
        family,
        id,
    })
}

/// The cgroup id among the attributes behind a listed socket.
fn cgroup_id(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)?));
        let kind = u16::from_ne_bytes(array(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_CGROUP_ID {
            return array(value, 0).map(u64::from_ne_bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// `N` bytes at `at`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn ipv4_socket(attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; LISTED];
        body[0] = libc::AF_INET as u8;
        body[4..8].copy_from_slice(&[0, 80, 1, 187]);
        body[8..12].copy_from_slice(&[10, 0, 0, 1]);
        body[24..28].copy_from_slice(&[10, 0, 0, 2]);
        body.extend(attributes);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn sockets_and_the_end_of_the_list_are_read() {
        let mut attributes = vec![5, 0, 5, 0, 1, 0, 0, 0];
        attributes.extend([12, 0, 21, 0]);
        attributes.extend(77u64.to_ne_bytes());
        let mut bytes = ipv4_socket(&attributes);
        bytes.extend(ipv4_socket(&[]));
        bytes.extend(message(NLMSG_DONE, &[0; 4]));
        let replies: Vec<_> = replies(&bytes).collect();
        let [Reply::Socket(first), Reply::Socket(second), Reply::Done] = replies[..] else {
            panic!("{replies:?}");
        };
        assert_eq!(first.local.to_string(), "10.0.0.1:80");
        assert_eq!(first.remote.to_string(), "10.0.0.2:443");
        assert_eq!((first.cgroup_id, second.cgroup_id), (Some(77), None));
        // The request to end it carries the kernel's own words.
        assert_eq!(destroy(&first)[HEADER + 8..], first.id);
    }

    #[test]
    fn errors_are_errnos_and_success_is_zero() {
        for errno in [0, libc::ENOENT] {
            let bytes = message(NLMSG_ERROR, &(-errno).to_ne_bytes());
            assert_eq!(replies(&bytes).next(), Some(Reply::Error(errno)));
        }
    }

    #[test]
    fn what_is_cut_short_ends_the_list_and_does_no_harm() {
        let whole = ipv4_socket(&[12, 0, 21, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(replies(&whole[..length]).next(), None);
        }
        // A length of 0 must not turn round for ever.
        assert_eq!(replies(&[0; 64]).count(), 0);
        let short = message(SOCK_DIAG_BY_FAMILY, &[2, 0, 0]);
        assert_eq!(replies(&short).next(), Some(Reply::Unknown));
        // Attributes that claim a length of 0.
        let bytes = ipv4_socket(&[0, 0, 1, 0, 0, 0, 0, 0]);
        let Some(Reply::Socket(socket)) = replies(&bytes).next() else {
            panic!("a socket was expected");
        };
        assert_eq!(socket.cgroup_id, None);
    }
}
