//! The little of rtnetlink that a veth pair needs: other kernels are tested in
//! machines that have no iproute2.

use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::bed::{Netns, OUT_V4, OUT_V6, POD_V4, POD_V6, socket};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;

/// Joins two namespaces by a veth pair, each end called eth0, with addresses.
pub(crate) fn join(pod: &Netns, outside: &Netns) {
    pod.run(|| {
        let name = attr(3, b"eth0\0");
        let peer = [
            link_header(0, 0),
            name.clone(),
            attr(28, &outside.0.as_raw_fd().to_ne_bytes()),
        ]
        .concat();
        let data = attr(2, &attr(1, &peer));
        let info = attr(18, &[attr(1, b"veth"), data].concat());
        send(
            RTM_NEWLINK,
            CREATE,
            &[link_header(0, 0), name, info].concat(),
        );
    });
    for (netns, v4, v6) in [(pod, POD_V4, POD_V6), (outside, OUT_V4, OUT_V6)] {
        netns.run(|| {
            address("eth0", v4.parse().unwrap(), 24);
            address("eth0", v6.parse().unwrap(), 64);
            up("eth0");
        });
    }
}

pub(crate) fn up(interface: &str) {
    const IFF_UP: u32 = 1;
    send(RTM_NEWLINK, 0, &link_header(index(interface), IFF_UP));
}

fn address(interface: &str, ip: IpAddr, prefix: u8) {
    const IFA_F_NODAD: u8 = 2;
    let (family, bytes) = match ip {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let mut body = vec![family as u8, prefix, IFA_F_NODAD, 0];
    body.extend(index(interface).to_ne_bytes());
    body.extend(attr(2, &bytes));
    body.extend(attr(1, &bytes));
    send(RTM_NEWADDR, CREATE, &body);
}

/// The index of an interface of the calling thread's namespace.
pub(crate) fn index(interface: &str) -> u32 {
    let name = CString::new(interface).unwrap();
    // SAFETY: a string that ends in a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    index
}

fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header
}

fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn send(kind: u16, flags: u16, body: &[u8]) {
    let netlink: OwnedFd = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let fd = netlink.as_raw_fd();
    let mut answer = [0u8; 256];
    // SAFETY: both buffers are as long as said.
    let received = unsafe {
        libc::send(fd, message.as_ptr().cast(), message.len(), 0);
        libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    assert!(received >= 20, "netlink answered {received} bytes");
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    let error = std::io::Error::from_raw_os_error(-error);
    assert_eq!(
        error.raw_os_error(),
        Some(0),
        "netlink message {kind}: {error}"
    );
}
