//! At which level below the root the pods cgroup lies. The helpers that name an
//! ancestor cgroup count levels from the real root, which the agent may not see
//! (a cgroup namespace hides it), so the programs find it themselves, once.

use crate::maps::{CGROUPS, META};
use mesh_common::maps::{Cgroup, MAX_DEPTH, MAX_PODS_LEVEL, Meta};

/// The single entry of the meta map.
#[inline(always)]
pub fn meta() -> Option<*mut Meta> {
    META.get_ptr_mut(0)
}

/// The level of the pods cgroup, given what names the ancestor at a level (0
/// for none). `None` when the pods cgroup is no ancestor.
#[inline(always)]
pub fn pods_level(meta: *mut Meta, ancestor: impl Fn(u32) -> u64) -> Option<u32> {
    // SAFETY: `meta` is the map's entry, which lives as long as the map. All
    // CPUs write the same number.
    let known = unsafe { (&raw const (*meta).pods_level).read_volatile() };
    if known != 0 {
        return Some(known - 1);
    }
    // SAFETY: as above.
    let wanted = unsafe { (*meta).pods_cgroup_id };
    for level in 0..MAX_PODS_LEVEL {
        if ancestor(level) == wanted {
            // SAFETY: as above.
            unsafe { (&raw mut (*meta).pods_level).write_volatile(level + 1) };
            return Some(level);
        }
    }
    None
}

/// The enrolled pod below whose cgroup something is, with that cgroup's id, given what names
/// its ancestor at a level.
#[inline(always)]
pub fn enrolled(ancestor: impl Fn(u32) -> u64) -> Option<(u64, &'static Cgroup)> {
    let meta = meta()?;
    let base = pods_level(meta, &ancestor)?;
    // SAFETY: the map's entry; the agent replaces a whole number.
    let depths = unsafe { (&raw const (*meta).depths).read_volatile() };
    for depth in 1..=MAX_DEPTH {
        if depths & (1 << depth) == 0 {
            continue;
        }
        let cgroup_id = ancestor(base + depth);
        // SAFETY: an update writes a new element; deleting it while it is read
        // at worst decides once by the entry that took its place.
        if let Some(pod) = unsafe { CGROUPS.get(cgroup_id) } {
            return Some((cgroup_id, pod));
        }
    }
    None
}
