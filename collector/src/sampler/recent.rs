//! The last measurements of a time, and how they were distributed.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use netio::v1;

/// How many are kept.
const KEPT: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Recent(VecDeque<Duration>);

impl Recent {
    pub(super) fn add(&mut self, time: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// Zeros, if nothing was measured yet.
    pub(super) fn percentiles(&self) -> v1::Percentiles {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let at = |per_cent: usize| {
            let index = (sorted.len() * per_cent / 100).min(sorted.len().saturating_sub(1));
            let time = sorted.get(index).copied().unwrap_or_default();
            time.try_into().ok()
        };
        v1::Percentiles {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_measurements() {
        let mut recent = Recent::default();
        let none = recent.percentiles();
        assert_eq!(none.max, Some(prost_types::Duration::default()));
        for millis in (0..5000).rev() {
            recent.add(Duration::from_millis(millis));
        }
        let told = recent.percentiles();
        let millis = |time: Option<prost_types::Duration>| {
            Duration::try_from(time.unwrap()).unwrap().as_millis()
        };
        assert_eq!(millis(told.max), 1023);
        assert_eq!((millis(told.p50), millis(told.p99)), (512, 1013));
    }
}
