//! Steps: each says what it does, how long it took and, when it fails, what to
//! type to repeat just it.

use std::fmt;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Runs one step. `repeat` is the command that does only this step.
pub(crate) fn step<T>(what: &str, repeat: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("    done in {seconds:.1} s"),
        Err(_) => println!("    FAILED after {seconds:.1} s"),
    }
    result.with_context(|| format!("{what}: failed; to repeat just this: {repeat}"))
}

/// How many checks passed, failed and were skipped, with reasons to repeat at
/// the end, where a reader looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Tally {
    pub(crate) fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    pub(crate) fn skip(&mut self, what: impl Into<String>) {
        self.skips.push(what.into());
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    /// A step that counts as one check.
    pub(crate) fn check(&mut self, what: &str, repeat: &str, work: impl FnOnce() -> Result<()>) {
        match step(what, repeat, work) {
            Ok(()) => self.pass(1),
            Err(error) => self.fail(format!("{error:#}")),
        }
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Lists what was skipped and what failed.
    pub(crate) fn explain(&self) {
        for skip in &self.skips {
            println!("skipped: {skip}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed())?;
        if !self.skips.is_empty() {
            write!(f, ", {} skipped", self.skips.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_has_its_exact_form() {
        let mut tally = Tally::default();
        tally.pass(3);
        assert_eq!(tally.to_string(), "3 passed, 0 failed");
        tally.fail("one");
        tally.skip("two");
        assert_eq!(tally.to_string(), "3 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn failed_step_tells_how_to_repeat_it() {
        let error = step("Look", "cargo xtask look", || -> Result<()> {
            anyhow::bail!("nothing there")
        })
        .expect_err("the work fails");
        assert_eq!(
            format!("{error:#}"),
            "Look: failed; to repeat just this: cargo xtask look: nothing there"
        );
    }
}
