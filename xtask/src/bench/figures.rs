//! Figures of several rounds: the one in the middle, with those at the ends.

use std::fmt;

/// A median with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Figure {
    /// None of no rounds.
    pub(super) fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let (least, most) = (*rounds.first()?, *rounds.last()?);
        let upper = rounds.len() / 2;
        let lower = rounds.len().saturating_sub(1) / 2;
        let median = f64::midpoint(*rounds.get(lower)?, *rounds.get(upper)?);
        Some(Self {
            median,
            least,
            most,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.2} ({least:.2}–{most:.2})")
    }
}

/// A figure in a table, or that there is none.
pub(super) fn cell(figure: Option<Figure>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| figure.to_string())
}

/// The sides of one round in an order of its own, so that none always runs first.
pub(super) fn turned<T: Copy>(sides: &[T], round: usize) -> impl Iterator<Item = T> {
    let first = round % sides.len().max(1);
    sides.iter().cycle().skip(first).take(sides.len()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Figure::of([]), None);
        assert_eq!(
            Figure::of([3.0, 1.0, 2.0]).map(|figure| figure.to_string()),
            Some("2.00 (1.00–3.00)".to_owned())
        );
        assert_eq!(Figure::of([4.0, 1.0]).map(|it| it.median), Some(2.5));
    }

    #[test]
    fn every_side_runs_once_a_round() {
        assert_eq!(turned(&[1, 2, 3], 1).collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(turned(&[1, 2, 3], 3).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
