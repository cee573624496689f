//! A run of several phases that reports at its end how many tests passed and failed in all.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::command::Run;

/// The sum over the phases. A check that is not made of tests counts as one.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    unhappy: Vec<&'static str>,
}

impl Tally {
    /// Runs a check that passes or fails as a whole.
    pub(crate) fn check<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        let start = headline(name);
        let result = work();
        match &result {
            Ok(_) => self.passed += 1,
            Err(error) => {
                self.fail(name, 1);
                eprintln!("{name} failed: {error:#}");
            }
        }
        footline(name, start);
        result.ok()
    }

    /// Runs a phase whose output has the test runner's lines `test result: ...`.
    pub(crate) fn tests(&mut self, name: &'static str, run: Run) -> Counted {
        self.counting(name, |counted| {
            let succeeded = run.watch(|line| counted.read(line))?;
            ensure!(
                succeeded || counted.failed > 0,
                "it ended before it could say which test failed"
            );
            Ok(())
        })
    }

    /// Runs a phase that counts its tests itself. One that fails without a failed test (a
    /// test binary that could not be built, a kernel that did not boot) counts as one failure.
    pub(crate) fn counting(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Counted) -> Result<()>,
    ) -> Counted {
        let start = headline(name);
        let mut counted = Counted::default();
        if let Err(error) = work(&mut counted) {
            eprintln!("{name} failed: {error:#}");
            counted.failed = counted.failed.max(1);
        }
        self.passed += counted.passed;
        if counted.failed > 0 {
            self.fail(name, counted.failed);
        }
        footline(name, start);
        counted
    }

    /// Prints the closing line, and fails when anything did.
    pub(crate) fn close(self) -> Result<()> {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("failed: {}", self.unhappy.join(", "));
        }
        Ok(())
    }

    fn fail(&mut self, name: &'static str, failures: usize) {
        self.failed += failures;
        self.unhappy.push(name);
    }
}

/// Tests of one phase.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Counted {
    /// Takes in a line of the test runner: `test result: ok. 12 passed; 0 failed; ...`.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else {
            return;
        };
        let count = |what: &str| {
            result
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
                .unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }
}

fn headline(name: &str) -> Instant {
    println!("\n=== {name}");
    Instant::now()
}

fn footline(name: &str, start: Instant) {
    println!("=== {name}: {:.1} s", start.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::Counted;

    #[test]
    fn results_of_several_binaries_are_summed() {
        let mut counted = Counted::default();
        for line in [
            "running 12 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "error: 1 target failed:",
        ] {
            counted.read(line);
        }
        assert_eq!((counted.passed, counted.failed), (15, 2));
    }
}
