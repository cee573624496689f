//! The calls of bpf(2) that are made here rather than by the loader library:
//! links that are replaced in place, maps without an allocation on the way, and
//! sockhash values. Called by the rest of `intercept` only.
#![expect(unsafe_code, reason = "bpf(2) takes raw pointers")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod elements;
mod links;
mod sockets;

pub(super) use elements::{delete, keys, lookup, lookup_per_cpu, update};
pub(super) use links::{effective, link_create, link_detach, link_info, link_update};
pub(super) use sockets::{Listener, inode, listener};

/// Commands, as numbered by the kernel's uapi/linux/bpf.h.
mod command {
    pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
    pub(super) const MAP_UPDATE_ELEM: u32 = 2;
    pub(super) const MAP_DELETE_ELEM: u32 = 3;
    pub(super) const MAP_GET_NEXT_KEY: u32 = 4;
    pub(super) const PROG_LOAD: u32 = 5;
    pub(super) const OBJ_PIN: u32 = 6;
    pub(super) const OBJ_GET: u32 = 7;
    pub(super) const PROG_GET_FD_BY_ID: u32 = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub(super) const PROG_QUERY: u32 = 16;
    pub(super) const LINK_CREATE: u32 = 28;
    pub(super) const LINK_UPDATE: u32 = 29;
    pub(super) const LINK_DETACH: u32 = 34;
}

/// Where a program can be attached (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    CgroupIngress = 0,
    CgroupEgress = 1,
    CgroupSockOps = 3,
    CgroupConnect4 = 10,
    CgroupConnect6 = 11,
    CgroupGetpeername4 = 29,
    CgroupGetpeername6 = 30,
    SkLookup = 36,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) prog_id: u32,
    /// The cgroup id of a cgroup link; 0 once that cgroup is gone.
    pub(super) cgroup_id: u64,
    /// The inode of a netns link's namespace; 0 once it is gone.
    pub(super) netns_ino: u32,
}

/// What the kernel says of a program.
#[derive(Clone, Debug)]
pub(super) struct ProgInfo {
    pub(super) id: u32,
    pub(super) tag: [u8; 8],
    pub(super) name: String,
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a link or a map at `path`, on a bpf file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjectAttr {
        path: path.as_ptr().addr() as u64,
        fd: raw(object),
        flags: 0,
    };
    bpf(command::OBJ_PIN, &attr).map(drop)
}

/// Opens what is pinned at `path`; `None` when nothing is.
pub(super) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjectAttr {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    match bpf_fd(command::OBJ_GET, &attr) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel says of `program`.
pub(super) fn prog_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    /// The beginning of `struct bpf_prog_info`; what is 0 asks for nothing.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Info {
        prog_type: u32,
        id: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by_uid: u32,
        nr_map_ids: u32,
        map_ids: u64,
        name: [u8; 16],
    }
    let mut info = Info::default();
    info_by_fd(program, &mut info)?;
    let length = info.name.iter().position(|byte| *byte == 0).unwrap_or(16);
    Ok(ProgInfo {
        id: info.id,
        tag: info.tag,
        name: String::from_utf8_lossy(&info.name[..length]).into_owned(),
    })
}

/// What the kernel says of the loaded program with this id.
pub(super) fn prog_info_by_id(id: u32) -> io::Result<ProgInfo> {
    let program = bpf_fd(command::PROG_GET_FD_BY_ID, &[id, 0, 0])?;
    prog_info(std::os::fd::AsFd::as_fd(&program))
}

/// The kernel's number for a map, never used again while the machine runs.
pub(super) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    /// The beginning of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Info {
        map_type: u32,
        id: u32,
    }
    let mut info = Info::default();
    info_by_fd(map, &mut info)?;
    Ok(info.id)
}

fn info_by_fd<T: Copy>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let attr = InfoAttr {
        fd: raw(object),
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info).addr() as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &attr).map(drop)
}

/// Nanoseconds since boot, without suspend: the time of `bpf_ktime_get_ns`.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable. The clock exists on every kernel, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Loads a program of the given type (`enum bpf_prog_type`) that only passes what it sees.
pub(super) fn load_passing(prog_type: u32) -> io::Result<OwnedFd> {
    // r0 = -1 (TC_ACT_UNSPEC); exit. No attach type is that of 0 for a type without one.
    load(
        prog_type,
        AttachType::CgroupIngress,
        &[0xffff_ffff_0000_00b7, 0x95],
    )
}

/// Loads a program of the given type (`enum bpf_prog_type`) that calls one
/// helper and returns, and lets go of it again: an error says that the kernel
/// does not have it there. Helpers that take more than a context and a number
/// are not for this.
pub(super) fn load_call(prog_type: u32, attach: AttachType, helper: u32) -> io::Result<()> {
    // Opcode, registers, offset and immediate, as the kernel's eBPF
    // instruction set lays them out: r2 = 0; call; r0 = 1; exit. r1 still is
    // the context; a helper that wants a number there takes r1 = 0 instead.
    let takes_number = matches!(helper, 123 | 187);
    let first = if takes_number { 0x01b7u64 } else { 0x02b7 };
    let instructions = [first, 0x85 | u64::from(helper) << 32, 0x1_0000_00b7, 0x95];
    load(prog_type, attach, &instructions).map(drop)
}

fn load(prog_type: u32, attach: AttachType, instructions: &[u64]) -> io::Result<OwnedFd> {
    /// The beginning of the attributes of BPF_PROG_LOAD.
    #[repr(C)]
    struct LoadAttr {
        prog_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    let attr = LoadAttr {
        prog_type,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"isthmus_probe\0\0\0",
        ifindex: 0,
        attach_type: attach as u32,
    };
    bpf_fd(command::PROG_LOAD, &attr)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn bpf_fd<T>(command: u32, attr: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a descriptor that is the caller's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: u32, attr: &T) -> io::Result<i64> {
    // SAFETY: every `attr` here is a prefix of `union bpf_attr` for its command,
    // the kernel takes what lies behind it as 0, and the pointers in it are to
    // memory that lives until the call returns and is as large as the map's or
    // the info's type says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
