//! The table of samples: takes ticks, produces aligned lines for people, with
//! a header first and, on a terminal, again before it scrolls out of sight.
//!
//! Under the line of a watch stand those of its processes that moved bytes, if
//! the samples tell them. A watch that waits is shown on a terminal when it
//! begins to, and then only under a new header: nothing happens, and a line a
//! second would push what did out of sight.

use std::{collections::HashSet, fmt};

use jiff::tz::TimeZone;

use crate::{
    model::{Flow, Part, Sample, State, Tick},
    units,
};

/// Lines between two headers on a terminal.
const LINES_PER_HEADER: usize = 20;
/// The kernel's names are no longer than this.
const NAME_WIDTH: usize = 15;
/// Room for what a rule says, which stands for a name while it waits.
const WIDEST_NAME: usize = 40;
/// The largest pid has seven digits.
const PID_WIDTH: usize = 7;
/// The heading; more than 99,999 processes would push the rest aside.
const PROCESSES_WIDTH: usize = 5;
/// What stands before the name of a process under its watch.
const INDENT: &str = "  ";
/// What stands for a process that is not there.
const NOBODY: &str = "-";
/// What stands for the processes that have no line of their own.
const OTHERS: &str = "(others)";

/// A table that is being written.
#[derive(Debug)]
pub(crate) struct Table {
    zone: TimeZone,
    on_terminal: bool,
    columns: Columns,
    /// Lines since the last header, those of waiting watches that were left out
    /// included; none before the first.
    lines: Option<usize>,
    /// Watches that are shown to be waiting.
    waiting: HashSet<String>,
}

/// What depends on the watches that are shown.
#[derive(Clone, Copy, Debug)]
struct Columns {
    name: usize,
    /// Whether the number of processes is shown.
    has_processes: bool,
}

impl Table {
    /// A table in the time of `zone`, for a terminal or not.
    pub(crate) fn new(zone: TimeZone, on_terminal: bool) -> Self {
        Self {
            zone,
            on_terminal,
            columns: Columns {
                name: NAME_WIDTH,
                has_processes: false,
            },
            lines: None,
            waiting: HashSet::new(),
        }
    }

    /// Makes room for a watch that may have any number of processes. Until then
    /// the table is that of single processes.
    pub(crate) fn make_room(&mut self, target: &str) {
        let width = target.chars().count().min(WIDEST_NAME);
        self.columns.name = self.columns.name.max(width);
        self.columns.has_processes = true;
    }

    /// Makes room for the lines of a watch's processes.
    pub(crate) fn make_room_for_parts(&mut self) {
        let width = NAME_WIDTH + INDENT.len();
        self.columns.name = self.columns.name.max(width);
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
            self.columns.header().write(&mut text);
            self.lines = Some(0);
        }
        let time = tick
            .time
            .to_zoned(self.zone.clone())
            .strftime("%H:%M:%S")
            .to_string();
        let mut lines = 0;
        for sample in &tick.samples {
            lines += 1;
            if self.is_news(sample) || is_due {
                let seconds = tick.counted(sample).as_secs_f64();
                self.columns
                    .of_watch(&time, sample, seconds)
                    .write(&mut text);
                for part in sample.parts.iter().filter(|part| is_worth_a_line(part)) {
                    lines += 1;
                    self.columns.of_part(part, seconds).write(&mut text);
                }
            }
        }
        self.lines = self.lines.map(|before| before + lines);
        text
    }

    /// Whether a sample tells more than that a watch waits still.
    fn is_news(&mut self, sample: &Sample) -> bool {
        if sample.state != State::Waiting {
            self.waiting.remove(&sample.watch_id);
            return true;
        }
        let has_begun = self.waiting.insert(sample.watch_id.clone());
        has_begun || !sample.is_idle() || !self.on_terminal
    }
}

/// One that is idle is not, but its end is.
fn is_worth_a_line(part: &Part) -> bool {
    let is_idle = part.sent.is_idle() && part.received.is_idle();
    !is_idle || part.state == State::Exited
}

/// The cells of a line.
struct Line {
    columns: Columns,
    time: String,
    pid: String,
    name: String,
    processes: String,
    /// Sent and received, in this interval and in total; of [`units::WIDTH`].
    numbers: [String; 4],
    remark: &'static str,
}

impl Columns {
    fn header(self) -> Line {
        let width = units::WIDTH;
        Line {
            columns: self,
            time: "TIME".to_owned(),
            pid: "PID".to_owned(),
            name: "NAME".to_owned(),
            processes: "PROCS".to_owned(),
            numbers: ["SENT/S", "RECEIVED/S", "SENT", "RECEIVED"]
                .map(|heading| format!("{heading:>width$}")),
            remark: "",
        }
    }

    fn of_watch(self, time: &str, sample: &Sample, seconds: f64) -> Line {
        let process = sample.shown_process();
        Line {
            columns: self,
            time: time.to_owned(),
            pid: process.map_or(NOBODY.to_owned(), |it| it.pid.to_string()),
            name: process.map_or(sample.target.clone(), |it| it.name.clone()),
            processes: sample.process_count.to_string(),
            numbers: numbers(&sample.sent, &sample.received, seconds),
            remark: remark(sample.state),
        }
    }

    fn of_part(self, part: &Part, seconds: f64) -> Line {
        let process = part.process.as_ref();
        let name = process.map_or(OTHERS, |it| &it.name);
        Line {
            columns: self,
            time: String::new(),
            pid: process.map_or(NOBODY.to_owned(), |it| it.pid.to_string()),
            name: format!("{INDENT}{name}"),
            processes: String::new(),
            numbers: numbers(&part.sent, &part.received, seconds),
            remark: remark(part.state),
        }
    }
}

fn numbers(sent: &Flow, received: &Flow, seconds: f64) -> [String; 4] {
    let rate = |flow: &Flow| units::bytes(flow.bytes as f64 / seconds);
    let total = |flow: &Flow| units::bytes(flow.bytes_total as f64);
    [rate(sent), rate(received), total(sent), total(received)]
}

fn remark(state: State) -> &'static str {
    match state {
        State::Running => "",
        State::Waiting | State::Exited => state.word(),
    }
}

impl Line {
    fn write(&self, text: &mut String) {
        let line = self.to_string();
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.columns.name;
        let name = short(&self.name, width);
        write!(
            f,
            "{:<8}  {:>PID_WIDTH$}  {name:<width$}",
            self.time, self.pid
        )?;
        if self.columns.has_processes {
            write!(f, "  {:>PROCESSES_WIDTH$}", self.processes)?;
        }
        for number in &self.numbers {
            write!(f, "  {number}")?;
        }
        write!(f, "  {}", self.remark)
    }
}

/// The name, cut to its column.
fn short(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests;
