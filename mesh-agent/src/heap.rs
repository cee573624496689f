//! The process's heap, where the C library's ways do not suit an agent: it reads a whole
//! cluster at its start, on several threads, and then hardly needs memory. Called by `main`,
//! and by sources after they have read much.

#![expect(unsafe_code, reason = "the allocator is the C library's")]

/// Arenas of glibc's allocator. Left alone it makes eight for each processor, and memory that
/// is freed in one is of no use to the threads of another.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Bytes from which on a block is a mapping of its own, which goes back to the kernel when it
/// is freed: lists and tables of a whole cluster, of which each change makes new ones. Above any
/// buffer of a connection. Left alone, glibc raises it to 32 MiB.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: libc::c_int = 1 << 20;

/// Sets the allocator up; to be called before there are threads.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) changes numbers of the allocator's own; no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}

/// Gives memory that nothing uses back to the kernel. Takes some milliseconds.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) is safe to call from any thread, and touches no memory in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
