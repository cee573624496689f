//! A process with fewer capabilities, as a container runtime starts one; used by the nodes,
//! whose agents a test may start like the `DaemonSet`'s.

#![expect(
    unsafe_code,
    reason = "prctl(2) and capset(2) have no safe wrapper here"
)]

use std::io;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;

/// A set of capabilities: bit `n` for the one of number `n` (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

/// Those that a test may want to give, by uapi/linux/capability.h.
const NUMBERS: [(&str, u32); 5] = [
    ("NET_ADMIN", 12),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits for each of the three sets.
const VERSION: u32 = 0x2008_0522;

impl Capabilities {
    /// Those with these names, which are written as a manifest has them: without `CAP_`.
    ///
    /// # Errors
    /// Fails for a name that has no number here yet.
    pub fn named(names: &[&str]) -> Result<Self> {
        let bit = |name: &&str| {
            let known = NUMBERS.iter().find(|(known, _)| known == name);
            let (_, number) = known.with_context(|| format!("no number is known for {name}"))?;
            Ok(1 << number)
        };
        let bits: Vec<u64> = names.iter().map(bit).collect::<Result<_>>()?;
        Ok(Self(bits.into_iter().fold(0, |set, bit| set | bit)))
    }

    /// What a process has in effect.
    ///
    /// # Errors
    /// Fails when there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .context("a process has effective capabilities")?;
        Ok(Self(u64::from_str_radix(field.trim(), 16)?))
    }

    /// Leaves the calling process no others from its next `execve(2)` on, for good, which needs
    /// `CAP_SETPCAP`; it keeps those that it has until then. Async-signal-safe.
    pub(crate) fn confine(self) -> io::Result<()> {
        for number in 0..u64::BITS {
            if self.0 & 1 << number != 0 {
                continue;
            }
            // SAFETY: PR_CAPBSET_DROP takes numbers alone and writes no memory.
            let dropped =
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) };
            match Errno::result(dropped) {
                Ok(_) => {}
                // The kernel knows none of this number, nor of any greater one.
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        inherit_none()?;
        // As with `allowPrivilegeEscalation: false`.
        Ok(set_no_new_privs()?)
    }
}

/// What root may inherit it has after `execve(2)`, whatever the bounding set.
fn inherit_none() -> io::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    // Effective, permitted and inheritable, of the lower 32 capabilities and of the upper ones.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: the header and the two triples of words have the layout of version 3, and live.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) })?;
    for [_, _, inheritable] in &mut sets {
        *inheritable = 0;
    }
    // SAFETY: as above; the kernel only reads them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) })?;
    Ok(())
}
