//! Whether memory is flat, and whether descriptors come back.
//!
//! Takes a look a second. Flat means: half of the looks of the last quarter of the time
//! show no more than [`GROWTH`] and [`SLACK`] above half of those of the second quarter;
//! in the first quarter buffers find their size. A leak of a kilobyte for each client
//! that comes and goes is a multiple of that.
#![forbid(unsafe_code)]

use std::fmt;

use crate::Result;

/// In percent.
const GROWTH: u64 = 5;
/// What an allocator may keep for itself, in bytes.
const SLACK: u64 = 4 << 20;
/// Descriptors that may come and go by themselves.
const FEW: usize = 4;

/// What was seen of the collector.
pub(crate) struct Samples {
    resident: Vec<u64>,
    descriptors: usize,
    most: usize,
    /// Both before the first client.
    first_resident: u64,
    first_descriptors: usize,
}

impl Samples {
    pub(crate) fn new(resident: u64, descriptors: usize) -> Self {
        Self {
            resident: Vec::new(),
            descriptors,
            most: descriptors,
            first_resident: resident,
            first_descriptors: descriptors,
        }
    }

    pub(crate) fn take(&mut self, resident: u64, descriptors: usize) {
        self.resident.push(resident);
        self.most = self.most.max(descriptors);
        self.descriptors = descriptors;
    }

    /// Those that were open when all had left.
    pub(crate) fn left_open(&mut self, descriptors: usize) {
        self.descriptors = descriptors;
    }

    /// Whether no more are open than before the first client.
    pub(crate) fn are_back(&self, descriptors: usize) -> bool {
        descriptors <= self.first_descriptors + FEW
    }

    /// Fails unless all is as the module says, and there was a load at all.
    pub(crate) fn judge(&self, clients: u32) -> Result {
        let (second, last) = self.quarters().ok_or("too few looks at the memory")?;
        if last > second + second * GROWTH / 100 + SLACK {
            return Err(format!(
                "memory grows: {} in the second quarter, {} in the last",
                mebibytes(second),
                mebibytes(last)
            )
            .into());
        }
        if !self.are_back(self.descriptors) {
            return Err(format!(
                "{} descriptors are open after all have left, {} were before",
                self.descriptors, self.first_descriptors
            )
            .into());
        }
        // Most of them are connected at most times.
        let least = self.first_descriptors + clients as usize / 2;
        if self.most < least {
            return Err(format!("no load: {} descriptors at most", self.most).into());
        }
        Ok(())
    }

    /// The last look.
    pub(crate) fn now(&self) -> String {
        let resident = self.resident.last().copied().unwrap_or_default();
        let descriptors = self.descriptors;
        format!(
            "{} resident, {descriptors} descriptors",
            mebibytes(resident)
        )
    }

    /// The medians of the second quarter and of the last.
    fn quarters(&self) -> Option<(u64, u64)> {
        let quarter = self.resident.len() / 4;
        let second = self.resident.get(quarter..2 * quarter)?;
        let last = self.resident.get(self.resident.len() - quarter..)?;
        Some((median(second)?, median(last)?))
    }
}

fn median(of: &[u64]) -> Option<u64> {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// All of it, in the end.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (second, last) = self.quarters().unwrap_or_default();
        write!(
            f,
            "{} resident at first, {} in the second quarter, {} in the last; \
             {} descriptors at first, {} at most, {} in the end",
            mebibytes(self.first_resident),
            mebibytes(second),
            mebibytes(last),
            self.first_descriptors,
            self.most,
            self.descriptors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn judged(resident: impl Iterator<Item = u64>, most: usize, last: usize) -> Result {
        let mut samples = Samples::new(30 * MIB, 20);
        for resident in resident {
            samples.take(resident, most);
        }
        samples.left_open(last);
        samples.judge(1000)
    }

    fn why(judged: Result) -> String {
        judged.expect_err("it is not well").to_string()
    }

    #[test]
    fn what_settles_in_the_first_quarter_is_flat() {
        let settling = (0..120).map(|second| 30 * MIB + MIB * second.min(25));
        judged(settling, 900, 22).unwrap();
        let noisy = (0..120).map(|second| 50 * MIB + MIB * 20 * (second % 2));
        judged(noisy, 900, 20).unwrap();
    }

    #[test]
    fn what_goes_on_growing_is_not() {
        let growing = (0..120).map(|second| 50 * MIB + second * MIB / 8);
        assert!(why(judged(growing, 900, 20)).contains("memory grows"));
    }

    #[test]
    fn descriptors_must_come_back_and_have_gone() {
        let flat = || (0..120).map(|_| 50 * MIB);
        assert!(why(judged(flat(), 900, 40)).contains("40 descriptors"));
        assert!(why(judged(flat(), 300, 20)).contains("no load"));
        assert!(why(judged(0..3, 900, 20)).contains("too few"));
    }
}
