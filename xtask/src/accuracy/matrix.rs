//! The accuracy matrix: which cells are right, and the table that shows them.
//!
//! It takes the lines that netio-accuracy wrote, column by column, and produces
//! a verdict for every cell and a Markdown table. Rows keep the order in which
//! patterns first came.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::step::Tally;

/// What netio-accuracy tells of one pattern. Counted minus truth, in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) pattern: String,
    pub(crate) mode: String,
    pub(crate) kernel: String,
    #[serde(default)]
    pub(crate) sent_error: Option<i64>,
    #[serde(default)]
    pub(crate) received_error: Option<i64>,
    #[serde(default)]
    pub(crate) truth_sent: u64,
    #[serde(default)]
    pub(crate) truth_received: u64,
    /// Why this kernel cannot make such traffic.
    #[serde(default)]
    pub(crate) unavailable: Option<String>,
    /// The mode's own blind spots that excuse this pattern.
    #[serde(default)]
    pub(crate) blind_spots: Vec<String>,
    /// Why there is no result.
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) missed_events: serde_json::Value,
    /// What the traffic generator remarks.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// What the names of columns of this machine's own kernel begin with.
const NATIVE: &str = "native";

/// One column: a hook mode on a kernel.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    /// As typed after `--column`.
    pub(crate) name: String,
    /// Whether its errors are ours. The tutorial's are what the table shows.
    pub(crate) must_be_exact: bool,
    /// Whether netio-accuracy was content. If not, and no cell tells why, it
    /// broke off.
    pub(crate) ended_well: bool,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict<'a> {
    Exact,
    Wrong {
        sent: i64,
        received: i64,
    },
    Blind {
        spots: &'a [String],
        sent: i64,
        received: i64,
    },
    Unavailable(&'a str),
    Error(&'a str),
    Missing,
}

impl Column {
    /// Reads what netio-accuracy wrote: a description of the mode, which names
    /// no pattern, and one object a line for each pattern.
    pub(crate) fn parse(
        name: &str,
        must_be_exact: bool,
        ended_well: bool,
        text: &str,
    ) -> Result<Self> {
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let value: serde_json::Value = serde_json::from_str(line)
                .with_context(|| format!("column {name} holds a line that is no JSON: {line}"))?;
            if value.get("pattern").is_some() {
                lines.push(
                    serde_json::from_value(value)
                        .with_context(|| format!("column {name} holds a strange line: {line}"))?,
                );
            }
        }
        Ok(Self {
            name: name.to_owned(),
            must_be_exact,
            ended_well,
            lines,
        })
    }

    fn verdict(&self, pattern: &str) -> Verdict<'_> {
        let Some(line) = self.lines.iter().find(|line| line.pattern == pattern) else {
            return Verdict::Missing;
        };
        if let Some(why) = &line.error {
            return Verdict::Error(why);
        }
        if let Some(why) = &line.unavailable {
            return Verdict::Unavailable(why);
        }
        match (line.sent_error, line.received_error) {
            (Some(0), Some(0)) => Verdict::Exact,
            (Some(sent), Some(received)) if !line.blind_spots.is_empty() => Verdict::Blind {
                spots: &line.blind_spots,
                sent,
                received,
            },
            (Some(sent), Some(received)) => Verdict::Wrong { sent, received },
            _ => Verdict::Error("the line tells no result"),
        }
    }

    fn is_native(&self) -> bool {
        self.name.starts_with(NATIVE)
    }

    /// The heading: kernel, then mode.
    fn title(&self) -> String {
        let Some(line) = self.lines.first() else {
            return self.name.clone();
        };
        let kernel: Vec<&str> = line.kernel.split(['.', '-', '+']).take(2).collect();
        let here = if self.is_native() { "native " } else { "" };
        let special = if self.name.ends_with("-preemptible") {
            ", preempt=full"
        } else if self.name.ends_with("-no-btf") {
            ", no BTF"
        } else {
            ""
        };
        format!("{here}{} {}{special}", kernel.join("."), line.mode)
    }
}

/// Every pattern that some column knows.
fn patterns(columns: &[Column]) -> Vec<&str> {
    let mut patterns = Vec::new();
    for line in columns.iter().flat_map(|column| &column.lines) {
        if !patterns.contains(&line.pattern.as_str()) {
            patterns.push(&line.pattern);
        }
    }
    patterns
}

/// Counts the cells that had to be right.
pub(crate) fn judge(columns: &[Column]) -> Tally {
    let mut tally = Tally::default();
    let patterns = patterns(columns);
    if patterns.is_empty() {
        tally.fail("the accuracy matrix is empty");
    }
    for column in columns {
        let before = tally.failed();
        // One cause can leave a whole column without results: told once.
        let mut causes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pattern in patterns.iter().filter(|_| column.must_be_exact) {
            let cell = format!("accuracy of {pattern} on {}", column.title());
            match column.verdict(pattern) {
                Verdict::Exact | Verdict::Blind { .. } => tally.pass(1),
                Verdict::Wrong { sent, received } => {
                    tally.fail(format!(
                        "{cell}: sent {sent:+}, received {received:+} bytes"
                    ));
                }
                // A guest is ours: it has all that the patterns need.
                Verdict::Unavailable(why) if !column.is_native() => {
                    tally.fail(format!("{cell}: unavailable: {why}"));
                }
                Verdict::Unavailable(why) => tally.skip(format!("{cell}: {why}")),
                Verdict::Error(why) => causes.entry(why).or_default().push(pattern),
                Verdict::Missing => causes.entry("no result").or_default().push(pattern),
            }
        }
        for (why, patterns) in causes {
            let (title, patterns) = (column.title(), patterns.join(", "));
            tally.fail(format!("accuracy on {title} of {patterns}: {why}"));
        }
        if !column.ended_well && tally.failed() == before {
            tally.fail(format!(
                "accuracy column {}: netio-accuracy ended with an error",
                column.name
            ));
        }
    }
    tally
}

/// The table, with footnotes.
pub(crate) fn markdown(columns: &[Column]) -> String {
    let mut table = String::from("| pattern |");
    let mut notes: Vec<String> = Vec::new();
    for column in columns {
        table += &format!(" {} |", column.title());
    }
    table += "\n|---|";
    table += &"---|".repeat(columns.len());
    table.push('\n');
    for pattern in patterns(columns) {
        table += &format!("| {pattern} |");
        for column in columns {
            let cell = match column.verdict(pattern) {
                Verdict::Exact => "0".to_owned(),
                Verdict::Wrong { sent, received } => wrong(sent, received),
                Verdict::Blind {
                    spots,
                    sent,
                    received,
                } => format!("blind: {} ({})", spots.join(", "), wrong(sent, received)),
                Verdict::Unavailable(why) => {
                    format!("–<sup>{}</sup>", footnote(&mut notes, why))
                }
                Verdict::Error(why) => {
                    format!("**error**<sup>{}</sup>", footnote(&mut notes, why))
                }
                Verdict::Missing => "**missing**".to_owned(),
            };
            table += &format!(" {cell} |");
        }
        table.push('\n');
    }
    for (position, note) in notes.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(table, "\n<sup>{}</sup> {note}  ", position + 1);
    }
    if !notes.is_empty() {
        table.push('\n');
    }
    table
}

fn wrong(sent: i64, received: i64) -> String {
    let mut parts = Vec::new();
    if sent != 0 {
        parts.push(format!("sent {sent:+}"));
    }
    if received != 0 {
        parts.push(format!("received {received:+}"));
    }
    parts.join(", ")
}

/// The number of the footnote that says `why`; each reason is told once.
fn footnote(notes: &mut Vec<String>, why: &str) -> usize {
    // A bar or a line break would end the cell.
    let why = why.replace('|', "/").replace('\n', " ");
    match notes.iter().position(|note| *note == why) {
        Some(position) => position + 1,
        None => {
            notes.push(why);
            notes.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: &str = r#"
        {"mode":"fentry","kernel":"6.1.0-56-cloud-amd64","programs":[]}
        {"pattern":"peek","mode":"fentry","kernel":"6.1.0-56-cloud-amd64","sent_error":0,"received_error":0,"truth_sent":5,"truth_received":5,"unavailable":null,"blind_spots":[]}
        {"pattern":"urgent","mode":"fentry","kernel":"6.1.0-56-cloud-amd64","sent_error":0,"received_error":-1,"blind_spots":["urgent-byte"]}
        {"pattern":"ktls","mode":"fentry","kernel":"6.1.0-56-cloud-amd64","unavailable":"no module tls"}
    "#;

    fn column(name: &str, must_be_exact: bool, text: &str) -> Column {
        Column::parse(name, must_be_exact, true, text).expect("well-formed")
    }

    #[test]
    fn right_excused_and_unavailable_cells_do_not_fail() {
        let tally = judge(&[column("native", true, EXACT)]);
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_guest_may_lack_nothing() {
        let tally = judge(&[column("6.1-fentry", true, EXACT)]);
        assert_eq!(tally.to_string(), "2 passed, 1 failed");
    }

    #[test]
    fn wrong_failed_and_missing_cells_fail() {
        let wrong = r#"
            {"pattern":"peek","mode":"kprobe","kernel":"6.1.0","sent_error":0,"received_error":-7,"blind_spots":[]}
            {"pattern":"urgent","mode":"kprobe","kernel":"6.1.0","error":"timed out"}
        "#;
        let columns = [
            column("native", true, EXACT),
            column("6.1-kprobe", true, wrong),
        ];
        assert_eq!(judge(&columns).to_string(), "2 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn tutorial_may_be_wrong_but_an_empty_matrix_may_not() {
        let tutorial = r#"{"pattern":"peek","mode":"tutorial","kernel":"6.1.0","sent_error":2,"received_error":-7}"#;
        let columns = [column("6.1-tutorial", false, tutorial)];
        assert_eq!(judge(&columns).failed(), 0);
        assert_eq!(judge(&[column("native", true, "")]).failed(), 1);
    }

    #[test]
    fn column_that_broke_off_fails_once() {
        let mut broken = column("native", true, EXACT);
        broken.ended_well = false;
        assert_eq!(judge(&[broken]).failed(), 1);
    }

    #[test]
    fn table_shows_every_kind_of_cell() {
        let tutorial = r#"
            {"pattern":"peek","mode":"tutorial","kernel":"6.12.1+deb","sent_error":2,"received_error":-7}
            {"pattern":"urgent","mode":"tutorial","kernel":"6.12.1+deb","error":"a | b"}
        "#;
        let table = markdown(&[
            column("6.1-fentry", true, EXACT),
            column("6.12-tutorial", false, tutorial),
        ]);
        assert_eq!(
            table,
            "| pattern | 6.1 fentry | 6.12 tutorial |\n\
             |---|---|---|\n\
             | peek | 0 | sent +2, received -7 |\n\
             | urgent | blind: urgent-byte (received -1) | **error**<sup>1</sup> |\n\
             | ktls | –<sup>2</sup> | **missing** |\n\
             \n<sup>1</sup> a / b  \n<sup>2</sup> no module tls  \n"
        );
    }
}
