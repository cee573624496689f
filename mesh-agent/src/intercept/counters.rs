//! What the kernel programs have counted, for metrics and status.

use std::fs;
use std::os::fd::BorrowedFd;

use mesh_common::counters::Counter;

use super::error::{InterceptError, Tried};
use super::sys;

/// A reading of all counters, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; Counter::COUNT]);

impl Counters {
    /// The value of one.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All of them, with their stable names from [`Counter::name`].
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter, self.get(counter)))
    }

    pub(super) fn read(map: BorrowedFd<'_>) -> Result<Self, InterceptError> {
        let cpus = possible_cpus()?;
        let mut counters = Self::default();
        for counter in Counter::ALL {
            let values = sys::lookup_per_cpu(map, counter as u32, cpus)
                .tried(|| "read the map of counters".to_owned())?;
            counters.0[counter as usize] = values.iter().sum();
        }
        Ok(counters)
    }
}

/// How many values the kernel writes for an entry of a per-CPU map: one for
/// each CPU that could ever be there.
fn possible_cpus() -> Result<usize, InterceptError> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(PATH).tried(|| format!("read {PATH}"))?;
    parse_possible(&text)
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
        .tried(|| format!("understand {PATH}"))
}

/// One more than the highest CPU of a list such as `0-3,8`: at least as many
/// as there are, and slots that the kernel leaves out stay 0.
fn parse_possible(text: &str) -> Option<usize> {
    let highest = text.trim().rsplit([',', '-']).next()?;
    highest.parse::<usize>().ok().map(|highest| highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_cpus_are_counted_by_the_highest() {
        for (text, expected) in [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(parse_possible(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        let counters = Counters::default();
        let mut names: Vec<_> = counters.iter().map(|(counter, _)| counter.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::COUNT);
    }
}
