//! The table of samples: takes ticks, produces aligned lines for people, with
//! a header first and, on a terminal, again before it scrolls out of sight.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::{
    model::{Flow, Sample, Tick},
    units,
};

/// Lines between two headers on a terminal.
const LINES_PER_HEADER: usize = 20;
/// The kernel's names are no longer than this.
const NAME_WIDTH: usize = 15;
/// The largest pid has seven digits.
const PID_WIDTH: usize = 7;

/// A table that is being written.
#[derive(Debug)]
pub(crate) struct Table {
    zone: TimeZone,
    on_terminal: bool,
    /// Lines since the last header; none before the first.
    lines: Option<usize>,
}

impl Table {
    /// A table in the time of `zone`, for a terminal or not.
    pub(crate) fn new(zone: TimeZone, on_terminal: bool) -> Self {
        Self {
            zone,
            on_terminal,
            lines: None,
        }
    }

    /// The lines of a tick, with a header before them when one is due.
    pub(crate) fn lines(&mut self, tick: &Tick) -> String {
        let mut text = String::new();
        if tick.samples.is_empty() {
            return text;
        }
        let is_due = self
            .lines
            .is_none_or(|lines| self.on_terminal && lines >= LINES_PER_HEADER);
        if is_due {
            text.push_str(&header());
            self.lines = Some(0);
        }
        let time = tick
            .time
            .to_zoned(self.zone.clone())
            .strftime("%H:%M:%S")
            .to_string();
        for sample in &tick.samples {
            text.push_str(&line(&time, tick.counted(sample).as_secs_f64(), sample));
        }
        self.lines = self.lines.map(|lines| lines + tick.samples.len());
        text
    }
}

fn header() -> String {
    let width = units::WIDTH;
    format!(
        "{:<8}  {:>PID_WIDTH$}  {:<NAME_WIDTH$}  {:>width$}  {:>width$}  {:>width$}  {:>width$}\n",
        "TIME", "PID", "NAME", "SENT/S", "RECEIVED/S", "SENT", "RECEIVED",
    )
}

fn line(time: &str, seconds: f64, sample: &Sample) -> String {
    let rate = |flow: &Flow| units::bytes(flow.bytes as f64 / seconds);
    let total = |flow: &Flow| units::bytes(flow.bytes_total as f64);
    let mut line = format!(
        "{time}  {:>PID_WIDTH$}  {:<NAME_WIDTH$}  {}  {}  {}  {}",
        sample.pid,
        short(&sample.name),
        rate(&sample.sent),
        rate(&sample.received),
        total(&sample.sent),
        total(&sample.received),
    );
    if sample.exited {
        line.push_str("  exited");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// The name, cut to its column.
fn short(name: &str) -> String {
    if name.chars().count() <= NAME_WIDTH {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(NAME_WIDTH - 1).collect();
    short.push('…');
    short
}

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
    use std::time::Duration;

    use super::*;
    use crate::model::tests::{sample, tick};

    fn table(on_terminal: bool) -> Table {
        Table::new(TimeZone::fixed(jiff::tz::offset(2)), on_terminal)
    }

    #[test]
    fn a_line_per_sample_with_aligned_columns() {
        let mut busy = sample("w-1", 4_194_303);
        busy.name = "a-much-longer-name".to_owned();
        busy.sent = Flow {
            bytes: 3_000,
            calls: 1,
            bytes_total: 1_572_864,
            calls_total: 9,
        };
        busy.received = Flow {
            bytes: 30_720,
            calls: 1,
            bytes_total: u64::MAX,
            calls_total: 9,
        };
        let mut gone = sample("w-2", 7);
        gone.exited = true;
        let mut tick = tick(1, vec![busy, gone]);
        tick.interval = Duration::from_millis(1500);
        assert_eq!(
            table(true).lines(&tick),
            "\
TIME          PID  NAME                  SENT/S   RECEIVED/S         SENT     RECEIVED
14:00:01  4194303  a-much-longer-…     2000 B      20.00 KiB     1.50 MiB    16.00 EiB
14:00:01        7  process7               0 B          0 B          0 B          0 B    exited
"
        );
    }

    #[test]
    fn the_header_returns_on_a_terminal_only() {
        for (on_terminal, headers) in [(true, 3), (false, 1)] {
            let mut table = table(on_terminal);
            let text: String = (0..50)
                .map(|sequence| table.lines(&tick(sequence, vec![sample("w-1", 7)])))
                .collect();
            assert_eq!(text.matches("TIME").count(), headers);
            assert_eq!(text.lines().count(), 50 + headers);
        }
    }

    #[test]
    fn the_first_rate_is_over_the_time_counted() {
        let mut sample = sample("w-1", 7);
        sample.sent.bytes = 1000;
        let mut tick = tick(1, vec![sample]);
        tick.samples[0].begin = Some(tick.time - Duration::from_millis(250));
        let text = table(true).lines(&tick);
        assert!(text.contains("   4000 B"), "{text}");
    }

    #[test]
    fn a_tick_without_samples_is_no_line() {
        assert_eq!(table(true).lines(&tick(1, vec![])), "");
    }

    #[test]
    fn aligned_rows() {
        let rows = [["A", "LONG", "C"], ["bbb", "x", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(align(&rows), "A    LONG  C\nbbb  x     y\n");
    }
}
