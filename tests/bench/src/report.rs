//! What a benchmark found: tables of figures, goals, and what is to be said
//! about them; as Markdown for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    machine,
    rounds::{Rounds, Spread},
};

/// A do-nothing side whose two figures differ by more than this part makes a
/// section worth little.
const MAX_DRIFT: f64 = 0.10;
/// A goal missed by more than this factor is a gross regression.
const GROSS: f64 = 2.0;

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) benchmark: &'static str,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) sections: Vec<Section>,
    /// All of it, to be read.
    pub(crate) markdown: String,
}

/// Sides that were measured in turn.
#[derive(Serialize)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// The columns' headings; the first has the figure itself.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) notes: Vec<String>,
    /// The machine was disturbed: nothing follows from the figures.
    pub(crate) drifted: bool,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) side: String,
    /// One for each column; none where it makes no sense.
    pub(crate) cells: Vec<Option<Spread>>,
}

#[derive(Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) figure: Spread,
    pub(crate) limit: f64,
    pub(crate) bound: Bound,
    /// Whether a gross miss fails the short form: for ratios that hold on any
    /// machine.
    pub(crate) gates: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost,
    AtLeast,
}

impl Goal {
    pub(crate) fn at_most(limit: f64, what: impl Into<String>, figure: &Rounds) -> Self {
        Self::new(Bound::AtMost, limit, what.into(), figure)
    }

    pub(crate) fn at_least(limit: f64, what: impl Into<String>, figure: &Rounds) -> Self {
        Self::new(Bound::AtLeast, limit, what.into(), figure)
    }

    fn new(bound: Bound, limit: f64, what: String, figure: &Rounds) -> Self {
        Self {
            what,
            figure: figure.spread(),
            limit,
            bound,
            gates: false,
        }
    }

    /// A gross miss of this goal fails the short form.
    pub(crate) fn gating(self) -> Self {
        Self {
            gates: true,
            ..self
        }
    }

    /// By what factor it is missed; 1 or less: reached.
    fn missed_by(&self) -> f64 {
        match self.bound {
            Bound::AtMost => self.figure.median / self.limit,
            Bound::AtLeast if self.figure.median <= 0.0 => f64::INFINITY,
            Bound::AtLeast => self.limit / self.figure.median,
        }
    }

    fn verdict(&self) -> String {
        let factor = self.missed_by();
        if factor <= 1.0 {
            "reached".to_owned()
        } else if factor.is_finite() {
            format!("NOT reached, by a factor of {factor:.2}")
        } else {
            "NOT reached".to_owned()
        }
    }
}

impl Section {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
            goals: Vec::new(),
            notes: Vec::new(),
            drifted: false,
        }
    }

    pub(crate) fn row(&mut self, side: impl Into<String>, cells: &[Option<&Rounds>]) {
        self.rows.push(Row {
            side: side.into(),
            cells: cells.iter().map(|cell| cell.map(Rounds::spread)).collect(),
        });
    }

    pub(crate) fn goal(&mut self, goal: Goal) {
        self.goals.push(goal);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Compares the two figures of the side that does nothing.
    pub(crate) fn check_drift(&mut self, first: &Rounds, second: &Rounds) {
        let drift = second.times(first).spread().median - 1.0;
        let percent = drift * 100.0;
        self.drifted = drift.abs() > MAX_DRIFT;
        self.note(if self.drifted {
            format!("**DRIFT: the empty twin changed by {percent:+.1} % within a round: these figures are worth little**")
        } else {
            format!("The empty twin, measured at both ends of a round, changed by {percent:+.1} %.")
        });
    }

    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n| side |", self.title);
        for column in &self.columns {
            let _ = write!(text, " {column} |");
        }
        text += "\n|---|";
        text += &"---|".repeat(self.columns.len());
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.side);
            for cell in &row.cells {
                let _ = write!(text, " {} |", cell.map_or("–".to_owned(), shown));
            }
            text.push('\n');
        }
        text.push('\n');
        if !self.goals.is_empty() {
            text += "| goal | figure | |\n|---|---|---|\n";
        }
        for goal in &self.goals {
            let bound = match goal.bound {
                Bound::AtMost => "≤",
                Bound::AtLeast => "≥",
            };
            let (what, limit) = (&goal.what, number(goal.limit));
            let (figure, verdict) = (shown(goal.figure), goal.verdict());
            let _ = writeln!(text, "| {what} {bound} {limit} | {figure} | {verdict} |");
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text.push('\n');
        text
    }
}

impl Report {
    pub(crate) fn new(benchmark: &'static str, sections: Vec<Section>) -> Self {
        let (kernel, processor) = (machine::kernel(), machine::processor());
        let head =
            format!("## {benchmark} (kernel {kernel}; {processor})\n\nMedian (least..most).\n\n");
        let markdown = sections
            .iter()
            .fold(head, |text, section| text + &section.markdown());
        Self {
            benchmark,
            kernel,
            processor,
            sections,
            markdown,
        }
    }

    /// Whether the machine was disturbed in every section that could show a regression.
    pub(crate) fn is_disturbed(&self) -> bool {
        let gating = |section: &&Section| section.goals.iter().any(|goal| goal.gates);
        let mut gating = self.sections.iter().filter(gating).peekable();
        gating.peek().is_some() && gating.all(|section| section.drifted)
    }

    /// Goals that gate and are missed grossly, on a machine that was not disturbed.
    pub(crate) fn regressions(&self) -> Vec<String> {
        let sections = self.sections.iter().filter(|section| !section.drifted);
        let goals = sections.flat_map(|section| &section.goals);
        goals
            .filter(|goal| goal.gates && goal.missed_by() > GROSS)
            .map(|goal| format!("{}: {}, {}", goal.what, shown(goal.figure), goal.verdict()))
            .collect()
    }
}

fn shown(spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
    format!("{median} ({min}..{max})")
}

/// Three digits that mean something, or all of an integer part.
fn number(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(bound: Bound, limit: f64, figure: f64) -> Goal {
        let figure = [figure].into_iter().collect();
        Goal::new(bound, limit, "it".to_owned(), &figure)
    }

    #[test]
    fn a_goal_tells_by_how_much_it_is_missed() {
        assert_eq!(goal(Bound::AtMost, 1.3, 1.2).verdict(), "reached");
        assert_eq!(
            goal(Bound::AtMost, 2.0, 3.0).verdict(),
            "NOT reached, by a factor of 1.50"
        );
        assert_eq!(
            goal(Bound::AtLeast, 7.0, 3.5).verdict(),
            "NOT reached, by a factor of 2.00"
        );
        assert_eq!(goal(Bound::AtLeast, 7.0, -1.0).verdict(), "NOT reached");
    }

    #[test]
    fn only_gross_misses_of_gating_goals_are_regressions() {
        let mut section = Section::new("t", &[]);
        section.goal(goal(Bound::AtMost, 1.0, 1.9).gating());
        section.goal(goal(Bound::AtMost, 1.0, 9.0));
        section.goal(goal(Bound::AtMost, 1.0, 2.1).gating());
        assert_eq!(Report::new("b", vec![section]).regressions().len(), 1);
    }

    #[test]
    fn drift_is_said_loudly() {
        let one: Rounds = [1.0].into_iter().collect();
        let more: Rounds = [1.2].into_iter().collect();
        let mut section = Section::new("t", &["ns"]);
        section.row("empty", &[Some(&one)]);
        section.check_drift(&one, &more);
        let text = section.markdown();
        assert!(text.contains("| empty | 1.00 (1.00..1.00) |"), "{text}");
        assert!(text.contains("DRIFT"), "{text}");
        section.goal(goal(Bound::AtMost, 1.0, 9.0).gating());
        assert!(Report::new("b", vec![section]).regressions().is_empty());
    }
}
