//! What the runs of the fan-out say: the table, the goals, and whether something
//! is badly wrong.

use std::fmt::Write as _;

use super::{Load, Outcome, Runs, Side, TICKS, load};
use crate::bench::figures::{Figure, cell};
use crate::step::Tally;

/// At most so many times the bare server's CPU, lateness, memory.
const GOAL: f64 = 1.2;
/// The short form fails beyond this: twice the goal.
const GROSS: f64 = 2.0 * GOAL;
/// The load whose lateness is compared: with own connections and with more
/// streams, it is the machine's more than the server's.
const IN_TIME: Load = load(10_000, 100);
/// With fewer streams, the tick's own work is the most of what a message costs.
const MANY: u32 = 1_000;

/// A load in words.
pub(super) fn name(load: Load) -> String {
    let Load {
        streams,
        connections,
        filters,
    } = load;
    let mut name = format!(
        "{} on {}",
        plural(streams, "stream"),
        plural(connections, "connection")
    );
    if filters > 1 {
        let _ = write!(name, ", {filters} filters");
    }
    name
}

fn plural(number: u32, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// A figure that is read from an outcome.
type Reading = fn(&Outcome, Load) -> f64;

fn cpu_us(outcome: &Outcome, _: Load) -> f64 {
    outcome.server_cpu_ns as f64 / 1e3 / outcome.arrived.max(1) as f64
}

fn p99_ms(outcome: &Outcome, _: Load) -> f64 {
    f64::from(outcome.p99_us) / 1e3
}

fn stream_kib(outcome: &Outcome, load: Load) -> f64 {
    let grown = outcome
        .resident_after
        .saturating_sub(outcome.resident_before);
    grown as f64 / 1024.0 / f64::from(load.streams)
}

impl Runs {
    fn outcomes(&self, side: Side) -> impl Iterator<Item = (u32, &Outcome)> {
        self.runs
            .iter()
            .filter(move |run| run.side == side)
            .filter_map(|run| Some((run.round, run.outcome.as_ref()?)))
    }

    fn figure(&self, side: Side, reading: Reading) -> Option<Figure> {
        Figure::of(self.outcomes(side).map(|(_, it)| reading(it, self.load)))
    }

    /// One side's figure over the bare server's of the same round.
    fn ratio(&self, side: Side, reading: Reading) -> Option<Figure> {
        Figure::of(self.outcomes(side).filter_map(|(round, outcome)| {
            let (_, bare) = self.outcomes(Side::Bare).find(|(it, _)| *it == round)?;
            let bare = reading(bare, self.load);
            (bare > 0.0).then(|| reading(outcome, self.load) / bare)
        }))
    }

    fn skipped(&self, side: Side) -> u64 {
        self.outcomes(side).map(|(_, it)| it.skipped_ticks).sum()
    }

    fn failure(&self, side: Side) -> Option<&str> {
        let mut runs = self.runs.iter().filter(|run| run.side == side);
        runs.find_map(|run| run.failure.as_deref())
    }
}

/// Every side under every load.
pub(super) fn table(measured: &[Runs]) -> String {
    let mut table = String::from(
        "| load | side | rounds | message B | CPU µs per message | p50 ms | p99 ms | max ms | KiB per stream | skipped \
         | CPU / bare | p99 / bare | memory / bare |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for runs in measured {
        for side in Side::ALL {
            if runs.runs.iter().any(|run| run.side == side) {
                let _ = writeln!(table, "{}", row(runs, side));
            }
        }
    }
    table
}

fn row(runs: &Runs, side: Side) -> String {
    let load = name(runs.load);
    let median = |reading: Reading, digits: usize| {
        let figure = runs.figure(side, reading);
        figure.map_or_else(|| "–".to_owned(), |it| format!("{:.digits$}", it.median))
    };
    let ratio = |reading: Reading| match side {
        Side::Bare => "1".to_owned(),
        _ => cell(runs.ratio(side, reading)),
    };
    // The loop of sends knows connections only.
    let memory = match side {
        Side::Raw => "–".to_owned(),
        _ => ratio(stream_kib),
    };
    format!(
        "| {load} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {memory} |",
        side.name(),
        runs.outcomes(side).count(),
        median(|outcome, _| outcome.message_bytes, 0),
        median(cpu_us, 2),
        median(|outcome, _| f64::from(outcome.p50_us) / 1e3, 1),
        median(p99_ms, 1),
        median(|outcome, _| f64::from(outcome.max_us) / 1e3, 1),
        median(stream_kib, 1),
        runs.skipped(side),
        ratio(cpu_us),
        ratio(p99_ms),
    )
}

/// The goals, as far as these loads can tell.
pub(super) fn goals(measured: &[Runs]) -> String {
    let mut table = String::from("| goal | measured | |\n|---|---|---|\n");
    for runs in measured {
        for (goal, measured, reached) in goals_of(runs) {
            let verdict = if reached { "reached" } else { "not reached" };
            let _ = writeln!(
                table,
                "| {}: {goal} | {measured} | {verdict} |",
                name(runs.load)
            );
        }
    }
    table
}

/// What was to be reached, what was, and whether that is enough.
fn goals_of(runs: &Runs) -> Vec<(String, String, bool)> {
    let mut goals = Vec::new();
    let mut at_most = |what: &str, reading: Reading| {
        let ratio = runs.ratio(Side::Ours, reading);
        goals.push((
            format!("{what} ≤ {GOAL} × bare"),
            cell(ratio),
            ratio.is_some_and(|ratio| ratio.median <= GOAL),
        ));
    };
    if runs.load.streams >= MANY {
        at_most("CPU per message", cpu_us);
        if runs.load == IN_TIME {
            at_most("p99", p99_ms);
        }
        // Differing messages are not what the bare server holds.
        if runs.load.filters == 1 {
            at_most("memory per stream", stream_kib);
        }
    }
    let (measured, reached) = match runs.failure(Side::Ours) {
        Some(failure) => (failure.to_owned(), false),
        None => {
            let skipped = runs.skipped(Side::Ours);
            (format!("{skipped} skipped"), skipped == 0)
        }
    };
    goals.push(("no tick skipped at 1 Hz".to_owned(), measured, reached));
    goals
}

/// For the long form: every run must have come to its end.
pub(super) fn completeness(measured: &[Runs]) -> Tally {
    let mut tally = Tally::default();
    for run in measured.iter().flat_map(|runs| &runs.runs) {
        match &run.failure {
            None => tally.pass(1),
            Some(failure) => tally.fail(failure),
        }
    }
    tally
}

/// For the short form, on a machine that does other things as well.
pub(super) fn gross_regressions(measured: &[Runs]) -> Tally {
    let mut tally = completeness(measured);
    for runs in measured {
        let load = name(runs.load);
        let readings: [(&str, Reading); 2] = [
            ("CPU per message", cpu_us),
            ("memory per stream", stream_kib),
        ];
        for (what, reading) in readings {
            match runs.ratio(Side::Ours, reading) {
                Some(ratio) if ratio.median <= GROSS => tally.pass(1),
                ratio => tally.fail(format!(
                    "fan-out to {load}: {what} is {} times a bare server's, and {GROSS} is the \
                     most; to see it again: cargo xtask bench fanout --short",
                    cell(ratio)
                )),
            }
        }
        let expected = u64::from(runs.load.streams) * u64::from(TICKS);
        for (_, outcome) in runs.outcomes(Side::Ours) {
            // A busy machine may lose some; none may stay without any.
            if outcome.messages < expected / 2 {
                tally.fail(format!(
                    "fan-out to {load}: {} messages of {expected} came",
                    outcome.messages
                ));
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::super::Run;
    use super::*;

    fn run(round: u32, side: Side, server_cpu_ns: u64) -> Run {
        let outcome = Outcome {
            messages: 4_000,
            arrived: 4_000,
            skipped_ticks: 0,
            told_skipped_ticks: 0,
            message_bytes: 1_000.0,
            p50_us: 10,
            p99_us: 20,
            max_us: 30,
            server_cpu_ns,
            load_cpu_ns: 1,
            resident_before: 1 << 20,
            resident_after: 2 << 20,
        };
        Run {
            round,
            side,
            outcome: Some(outcome),
            failure: None,
        }
    }

    fn runs(ours: u64) -> [Runs; 1] {
        [Runs {
            load: load(1_000, 10),
            runs: vec![
                run(0, Side::Ours, ours),
                run(0, Side::Bare, 100),
                run(1, Side::Ours, 2 * ours),
                run(1, Side::Bare, 200),
            ],
        }]
    }

    #[test]
    fn a_side_is_compared_with_the_bare_one_of_its_round() {
        let ratio = runs(110)[0].ratio(Side::Ours, cpu_us);
        assert_eq!(
            ratio.map(|it| it.to_string()).as_deref(),
            Some("1.10 (1.10–1.10)")
        );
        assert!(
            goals_of(&runs(110)[0])
                .iter()
                .all(|(_, _, reached)| *reached)
        );
        assert!(!goals_of(&runs(130)[0])[0].2);
    }

    #[test]
    fn only_gross_regressions_fail_the_short_form() {
        assert_eq!(gross_regressions(&runs(200)).failed(), 0);
        assert_eq!(gross_regressions(&runs(300)).failed(), 1);
    }

    #[test]
    fn a_side_that_failed_is_told() {
        let mut runs = runs(100);
        runs[0].runs[0].outcome = None;
        runs[0].runs[0].failure = Some("no".to_owned());
        assert_eq!(completeness(&runs).failed(), 1);
        assert!(goals(&runs).contains("no tick skipped at 1 Hz | no | not reached"));
    }
}
