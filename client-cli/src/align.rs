//! Columns for people: takes rows of cells, produces lines in which the cells
//! of a column stand below each other.

use std::fmt::Write as _;

/// Lines up rows of cells by the widest of each column, two spaces between.
pub(crate) fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_rows() {
        let rows = [["A", "LONG", "C"], ["bbb", "x", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(align(&rows), "A    LONG  C\nbbb  x     y\n");
    }
}
