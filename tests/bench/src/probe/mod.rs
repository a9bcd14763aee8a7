//! `probe`: what a send and a receive call cost with programs attached.
//!
//! Each round attaches one side after the other, and nothing beside it. A side
//! that lists whom it counts is measured before and after this process is on its
//! list.
//!
//! Natively the figures are nanoseconds for each pair of calls. With
//! `--instructions` the clock is taken to advance by one nanosecond for each
//! instruction, as an emulated machine's can (`cargo xtask bench probe` starts
//! one), and every mode is measured: such figures repeat to a thousandth, whatever
//! else the host does.

mod instructions;
mod native;
mod pair;
mod sides;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::Btf;
use clap::Args;

use crate::{
    report::{Report, Section},
    rounds::Rounds,
};
use pair::{Calls, Effort};
use sides::Side;

/// How long the kernel may be busy with programs that were attached or detached.
const CLEARING_AWAY: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Arguments {
    /// The clock counts instructions: measure every mode
    #[arg(long)]
    instructions: bool,
}

pub(crate) fn run(arguments: &Arguments, short: bool) -> Result<Report> {
    let types = Btf::from_sys_fs().context("read the kernel's BTF")?;
    let sections = if arguments.instructions {
        instructions::sections(&types, short)?
    } else {
        native::sections(&types, short)?
    };
    Ok(Report::new("probe", sections))
}

/// What is to be measured: a side, and whether it lists whom it counts.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    side: Side,
    lists: bool,
}

const fn plan(name: &'static str, side: Side) -> Plan {
    Plan {
        name,
        side,
        lists: false,
    }
}

const fn listing(name: &'static str, side: Side) -> Plan {
    Plan {
        name,
        side,
        lists: true,
    }
}

/// A side's figures; those without being listed only if it lists.
#[derive(Default)]
struct Measured {
    unwatched: Rounds,
    watched: Rounds,
}

/// Measures all plans in turn, round by round.
fn measure(
    plans: &[Plan],
    types: &Btf,
    cpus: &[usize],
    rounds: usize,
    effort: Effort,
) -> Result<Vec<Measured>> {
    let mut all: Vec<Measured> = plans.iter().map(|_| Measured::default()).collect();
    for _ in 0..rounds {
        for (plan, measured) in plans.iter().zip(&mut all) {
            let mut attached = plan.side.attach(types).context(plan.name)?;
            // What was attached before is still being cleared away.
            thread::sleep(CLEARING_AWAY);
            if plan.lists {
                measured.unwatched.push(pair::measure(cpus, effort)?);
            }
            attached.watch().context(plan.name)?;
            measured.watched.push(pair::measure(cpus, effort)?);
            if let Some(counted) = attached.sent_bytes() {
                let sent = effort.bytes() * cpus.len() as u64;
                ensure!(
                    counted == sent,
                    "netio counted {counted} bytes of {sent} that were sent"
                );
            }
        }
    }
    Ok(all)
}

/// Adds a side's rows: the figure, and what it is above `bare` and in multiples of
/// what `empty` is above it.
fn rows(section: &mut Section, plan: &Plan, measured: &Measured, bare: &Rounds, empty: &Rounds) {
    let mut row = |name: String, figure: &Rounds| {
        let over = figure.over(bare);
        let times = over.times(&empty.over(bare));
        section.row(name, &[Some(figure), Some(&over), Some(&times)]);
    };
    if plan.lists {
        row(format!("{}, un-watched", plan.name), &measured.unwatched);
        row(format!("{}, watched", plan.name), &measured.watched);
    } else {
        row(plan.name.to_owned(), &measured.watched);
    }
}
