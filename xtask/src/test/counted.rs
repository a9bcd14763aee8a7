//! Counting what `cargo test` prints.
//!
//! It takes the lines of a run with `--show-output` and produces the tally and
//! what is worth showing. A test that cannot run where it is prints
//! `skipping test - why` and returns; it counts as skipped, not as passed.

use crate::step::Tally;

/// What introduces the reason in a test's output.
const SKIPPED: &str = "skipping test - ";

/// Follows one `cargo test`.
#[derive(Default)]
pub(super) struct Counter {
    tally: Tally,
    section: Section,
    /// The test whose output is being read, until it says that it was skipped.
    speaking: Option<String>,
    /// Skips of the binary that runs at present, which libtest takes for passes.
    skips: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Run,
    /// What tests that passed printed: of no interest but for skips.
    Successes,
    Failures,
}

impl Counter {
    /// Takes in a line; whether it is to be shown.
    pub(super) fn take(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.result(counts);
            self.section = Section::Run;
            return true;
        }
        match line {
            "successes:" => self.section = Section::Successes,
            "failures:" => self.section = Section::Failures,
            _ => {}
        }
        match self.section {
            Section::Run => {
                if let Some(name) = line
                    .strip_suffix(" ... FAILED")
                    .and_then(|test| test.strip_prefix("test "))
                {
                    self.tally.fail(format!("test {name}"));
                } else if let Some((name, _)) = line.split_once(" ... ignored") {
                    self.tally.skip(name.trim_start_matches("test "));
                }
                true
            }
            Section::Failures => true,
            Section::Successes => {
                if let Some(name) = line
                    .strip_prefix("---- ")
                    .and_then(|line| line.strip_suffix(" stdout ----"))
                {
                    self.speaking = Some(name.to_owned());
                } else if let Some(why) = line.strip_prefix(SKIPPED)
                    && let Some(name) = self.speaking.take()
                {
                    self.tally.skip(format!("{name}: {why}"));
                    self.skips += 1;
                    return true;
                }
                false
            }
        }
    }

    /// The tally, given whether cargo was content.
    pub(super) fn finish(mut self, succeeded: bool, repeat: &str) -> Tally {
        if !succeeded && self.tally.failed() == 0 {
            self.tally.fail(format!(
                "the tests did not build, or one of them crashed: {repeat}"
            ));
        }
        self.tally
    }

    fn result(&mut self, counts: &str) {
        let count = |of: &str| {
            counts
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(of))
                .and_then(|number| number.trim().parse().ok())
                .unwrap_or(0usize)
        };
        self.tally.pass(count("passed").saturating_sub(self.skips));
        self.skips = 0;
        self.speaking = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
running 4 tests
test a ... ok
test kernel ... ok
test slow ... ignored, takes an hour
test wrong ... FAILED

successes:

---- kernel stdout ----
noise
skipping test - lacks root
skipping test - said twice
---- a stdout ----
more noise


successes:
    a
    kernel

failures:

---- wrong stdout ----
assertion failed

failures:
    wrong

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn skips_are_not_passes() {
        let mut counter = Counter::default();
        let shown: Vec<&str> = RUN.lines().filter(|line| counter.take(line)).collect();
        assert_eq!(
            counter.finish(false, "").to_string(),
            "1 passed, 1 failed, 2 skipped"
        );
        assert!(shown.contains(&"skipping test - lacks root"));
        assert!(shown.contains(&"assertion failed"));
        assert!(!shown.contains(&"noise"));
    }

    #[test]
    fn several_binaries_add_up() {
        let mut counter = Counter::default();
        for _ in 0..2 {
            counter.take("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured");
        }
        assert_eq!(counter.finish(true, "").to_string(), "6 passed, 0 failed");
    }

    #[test]
    fn failure_to_compile_is_a_failure() {
        assert_eq!(Counter::default().finish(false, "").failed(), 1);
    }
}
