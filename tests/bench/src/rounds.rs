//! Figures of several rounds.

use serde::Serialize;

/// One figure of each round, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(Vec<f64>);

/// The median of the rounds, with the least and the most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Rounds {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Round by round, this figure and another's made into one.
    pub(crate) fn with(&self, other: &Self, made: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(mine, theirs)| made(*mine, *theirs)).collect())
    }

    /// The difference to another, round by round.
    pub(crate) fn over(&self, other: &Self) -> Self {
        self.with(other, |mine, theirs| mine - theirs)
    }

    /// The ratio to another, round by round.
    pub(crate) fn times(&self, other: &Self) -> Self {
        self.with(other, |mine, theirs| mine / theirs)
    }

    /// How often a part of the figures are at or below: 0.99 for p99.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (part * sorted.len() as f64).ceil() as usize;
        let place = place.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn spread(&self) -> Spread {
        Spread {
            median: self.quantile(0.5),
            min: self.quantile(0.0),
            max: self.quantile(1.0),
        }
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Self {
        Self(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_figure_that_was_measured() {
        let rounds: Rounds = [3.0, 1.0, 2.0].into_iter().collect();
        let spread = rounds.spread();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(rounds.quantile(0.99), 3.0);
        assert!(Rounds::default().spread().median.is_nan());
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        let before: Rounds = [10.0, 20.0].into_iter().collect();
        let after: Rounds = [11.0, 21.0].into_iter().collect();
        assert_eq!(after.over(&before).spread().max, 1.0);
        assert_eq!(before.times(&before).spread().min, 1.0);
    }
}
