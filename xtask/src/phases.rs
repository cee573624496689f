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
    unsteady: Vec<String>,
}

/// Failures among many tests that are worth a second look; more are no accident.
const FEW: usize = 3;

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

    /// As [`Self::tests`], for tests that share a machine with each other: the few that fail
    /// run once more, each alone, as `again` says. One that passes then counts as passed, and
    /// is named at the end, since it has something to be found.
    pub(crate) fn tests_with_second_look(
        &mut self,
        name: &'static str,
        run: Run,
        again: impl Fn(&str) -> Run,
    ) {
        let mut unsteady = Vec::new();
        self.counting(name, |counted| {
            let succeeded = run.watch(|line| counted.read(line))?;
            ensure!(
                succeeded || counted.failed > 0,
                "it ended before it could say which test failed"
            );
            unsteady = counted.second_look(|names| {
                let mut seen = Counted::default();
                for name in names {
                    println!("\n{name} failed among the others: once more, alone");
                    again(name).watch(|line| seen.read(line))?;
                }
                Ok(seen)
            })?;
            Ok(())
        });
        self.unsteady.extend(unsteady);
    }

    /// Names tests that failed and then passed alone.
    pub(crate) fn unsteady(&mut self, names: impl IntoIterator<Item = String>) {
        self.unsteady.extend(names);
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
        for name in &self.unsteady {
            println!("\nunsteady: {name} failed once, and passed when it ran alone");
        }
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
#[derive(Debug, Default, Clone)]
pub(crate) struct Counted {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// The names of those that failed, as far as the runner told them one by one.
    pub(crate) names: Vec<String>,
}

impl Counted {
    /// Runs those that failed once more, if they are few and all of them known. Gives the
    /// names of those that passed now, which count as passed from here on.
    pub(crate) fn second_look(
        &mut self,
        again: impl FnOnce(&[String]) -> Result<Self>,
    ) -> Result<Vec<String>> {
        if self.failed == 0 || self.failed > FEW || self.names.len() != self.failed {
            return Ok(Vec::new());
        }
        let seen = again(&self.names)?;
        let failed_again = |name: &String| seen.names.contains(name);
        // One of which nothing was heard has not passed.
        if seen.passed + seen.names.len() != self.names.len() {
            return Ok(Vec::new());
        }
        let passed: Vec<_> = self
            .names
            .iter()
            .filter(|name| !failed_again(name))
            .cloned()
            .collect();
        self.passed += passed.len();
        self.failed -= passed.len();
        self.names.retain(failed_again);
        Ok(passed)
    }

    /// Takes in a line of the test runner: `test result: ok. 12 passed; 0 failed; ...`, or
    /// `test NAME ... FAILED`.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        }
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

    #[test]
    fn a_second_look_forgives_what_passes_alone_and_nothing_else() {
        let first = [
            "test a::one ... ok",
            "test a::two ... FAILED",
            "test a::three ... FAILED",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored",
        ];
        let after = |second: &[&str]| {
            let mut counted = Counted::default();
            first.iter().for_each(|line| counted.read(line));
            let unsteady = counted.second_look(|names| {
                assert_eq!(names, ["a::two", "a::three"]);
                let mut seen = Counted::default();
                second.iter().for_each(|line| seen.read(line));
                Ok(seen)
            });
            (counted.passed, counted.failed, unsteady.unwrap())
        };
        let alone = "test result: ok. 1 passed; 0 failed; 0 ignored";
        let again = [
            "test a::three ... FAILED",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored",
        ];
        assert_eq!(
            after(&[alone, again[0], again[1]]),
            (2, 1, vec!["a::two".to_owned()])
        );
        // Nothing was heard of one of them.
        assert_eq!(after(&[alone]), (1, 2, Vec::new()));
    }

    #[test]
    fn many_failures_get_no_second_look() {
        let mut counted = Counted::default();
        for number in 0..4 {
            counted.read(&format!("test number_{number} ... FAILED"));
        }
        counted.read("test result: FAILED. 0 passed; 4 failed; 0 ignored");
        let unsteady = counted.second_look(|_| unreachable!("four are too many"));
        assert_eq!(unsteady.unwrap(), Vec::<String>::new());
        assert_eq!(counted.failed, 4);
    }
}
