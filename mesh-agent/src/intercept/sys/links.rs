//! Links: made, given another program in place, detached and described.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{AttachType, LinkInfo, bpf, bpf_fd, command, info_by_fd, raw};

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup or a network namespace. The link lasts as
/// long as the descriptor or a pin of it.
pub(in crate::intercept) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let attr = LinkCreateAttr {
        prog_fd: raw(program),
        target_fd: raw(target),
        attach_type: attach_type as u32,
        flags: 0,
    };
    bpf_fd(command::LINK_CREATE, &attr)
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts `program` in the place of the link's program, without an instant in
/// which there is none. ENOLINK when what it was attached to is gone.
pub(in crate::intercept) fn link_update(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let attr = LinkUpdateAttr {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(command::LINK_UPDATE, &attr).map(drop)
}

/// Detaches the link at once, whoever else still holds it.
pub(in crate::intercept) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(command::LINK_DETACH, &raw(link)).map(drop)
}

/// What the kernel says of `link`.
pub(in crate::intercept) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `struct bpf_link_info`: the union holds cgroup id and attach type, or
    /// netns inode and attach type.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Info {
        link_type: u32,
        id: u32,
        prog_id: u32,
        reserved: u32,
        target: u64,
        rest: [u64; 13],
    }
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    let mut info = Info::default();
    info_by_fd(link, &mut info)?;
    Ok(LinkInfo {
        id: info.id,
        prog_id: info.prog_id,
        cgroup_id: if info.link_type == CGROUP {
            info.target
        } else {
            0
        },
        netns_ino: if info.link_type == NETNS {
            let [a, b, c, d, ..] = info.target.to_ne_bytes();
            u32::from_ne_bytes([a, b, c, d])
        } else {
            0
        },
    })
}
