//! Links: made, given another program in place, detached and described.

use std::cell::Cell;
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

/// The ids of the programs that the kernel runs for sockets of this cgroup: those attached
/// to it and to the cgroups above, as the kernel itself has worked it out.
pub(in crate::intercept) fn effective(
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct QueryAttr {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        /// Room in `prog_ids`, then what there is; the kernel writes it.
        prog_cnt: Cell<u32>,
        reserved: u32,
    }
    /// BPF_F_QUERY_EFFECTIVE of uapi/linux/bpf.h.
    const EFFECTIVE: u32 = 1;
    /// The kernel takes 64 programs at a cgroup (BPF_CGROUP_MAX_PROGS), and there may be
    /// as many at each one above.
    const ROOM: usize = 1024;
    let mut ids = vec![0u32; ROOM];
    let attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type: attach_type as u32,
        query_flags: EFFECTIVE,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: Cell::new(ROOM as u32),
        reserved: 0,
    };
    bpf(command::PROG_QUERY, &attr)?;
    ids.truncate(attr.prog_cnt.get() as usize);
    Ok(ids)
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
