//! Elements of maps: read, written and removed without an allocation.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use aya::Pod;

use super::{bpf, command, raw};

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    /// Value, or the next key.
    value: u64,
    flags: u64,
}

/// Reads the value under `key`; `None` when there is none.
pub(in crate::intercept) fn lookup<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let attr = elem(map, key, value.as_mut_ptr().addr() as u64, 0);
    match bpf(command::MAP_LOOKUP_ELEM, &attr) {
        // SAFETY: zeroed above and perhaps written by the kernel; `Pod` types
        // are valid for every bit pattern.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads an entry of a per-CPU array: one value a possible CPU, each in a slot
/// of 8 bytes.
pub(in crate::intercept) fn lookup_per_cpu(
    map: BorrowedFd<'_>,
    key: u32,
    cpus: usize,
) -> io::Result<Vec<u64>> {
    let mut values = vec![0u64; cpus];
    let attr = elem(map, &key, values.as_mut_ptr().addr() as u64, 0);
    bpf(command::MAP_LOOKUP_ELEM, &attr)?;
    Ok(values)
}

/// Writes `value` under `key`, whether or not there is one already.
pub(in crate::intercept) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let attr = elem(map, key, std::ptr::from_ref(value).addr() as u64, 0);
    bpf(command::MAP_UPDATE_ELEM, &attr).map(drop)
}

/// Removes the value under `key`; `false` when there was none.
pub(in crate::intercept) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    match bpf(command::MAP_DELETE_ELEM, &elem(map, key, 0, 0)) {
        Ok(_) => Ok(true),
        // A sockhash says EINVAL for a key that it does not hold.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// All keys of a hash map. `limit` bounds the walk, which could otherwise start
/// anew for ever while entries come and go.
pub(in crate::intercept) fn keys<K: Pod>(map: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<K>> {
    let mut found: Vec<K> = Vec::new();
    while found.len() < limit {
        let mut next = MaybeUninit::<K>::zeroed();
        let key = found
            .last()
            .map_or(0, |key| std::ptr::from_ref(key).addr() as u64);
        let attr = ElemAttr {
            map_fd: raw(map),
            reserved: 0,
            key,
            value: next.as_mut_ptr().addr() as u64,
            flags: 0,
        };
        match bpf(command::MAP_GET_NEXT_KEY, &attr) {
            // SAFETY: as in `lookup`.
            Ok(_) => found.push(unsafe { next.assume_init() }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn elem<K: Pod>(map: BorrowedFd<'_>, key: &K, value: u64, flags: u64) -> ElemAttr {
    ElemAttr {
        map_fd: raw(map),
        reserved: 0,
        key: std::ptr::from_ref(key).addr() as u64,
        value,
        flags,
    }
}
