//! This machine's own kernel, in nanoseconds, on the hooks that every kernel
//! loads: the tracepoints.

use anyhow::Result;
use aya::Btf;
use netio_collector::probe::HookChoice;

use super::{
    Calls, Effort, listing, measure, plan, rows,
    sides::{EMPTY, EMPTY_AT_QUEUE, HASH_BODY, LRU_BODY, Ours, Side, TCPTOP_BODY, TUTORIAL_BODY},
};
use crate::{
    machine,
    report::{Goal, Section},
};

const ROUNDS: usize = 9;
const SHORT_ROUNDS: usize = 3;
/// In the short form one thread must do, and little of it.
const SHORT_EFFORT: Effort = Effort {
    calls: Calls::Together,
    pairs: 10 * 256,
    batches: 20,
};
const EFFORT: Effort = Effort {
    calls: Calls::Together,
    pairs: 20 * 256,
    batches: 40,
};

/// What a program of netio's may take longer than an empty one, in nanoseconds.
const MOST_UNWATCHED: f64 = 3.0;
const MOST_WATCHED: f64 = 8.0;
/// How many times what the tutorial's body costs above the empty twin is what
/// netio's does.
const TIMES_CHEAPER: f64 = 5.0;
/// The same for all that the programs cost, when two threads of one process count
/// at a time.
const TIMES_CHEAPER_AT_TWO: f64 = 4.0;
/// Ratios that hold on a busy machine, too, for the short form: what a pair of
/// calls takes with netio's programs and with empty ones, and what netio adds to it
/// and what the tutorial's body does.
const MOST_OF_WHOLE: f64 = 1.15;
const MOST_OF_TUTORIAL: f64 = 0.6;

pub(super) fn sections(types: &Btf, short: bool) -> Result<Vec<Section>> {
    // Before all else: whether it attaches, and to what.
    let at_queue = Ours::attach(HookChoice::Tracepoint)?.is_at_queue();
    let cpus = machine::cpus()?;
    let mut sections = Vec::new();
    let threads: &[usize] = if short { &[1] } else { &[1, 2] };
    for &threads in threads {
        match cpus.get(..threads) {
            Some(cpus) => sections.push(section(types, short, at_queue, cpus)?),
            None => eprintln!("skipped: {threads} threads, since there are fewer CPUs"),
        }
    }
    Ok(sections)
}

fn section(types: &Btf, short: bool, at_queue: bool, cpus: &[usize]) -> Result<Section> {
    let (same_hooks, programs) = if at_queue {
        (
            plan("empty twin at netio's 3 hooks", Side::Twin(EMPTY_AT_QUEUE)),
            3.0,
        )
    } else {
        (
            plan("empty twin at netio's 2 hooks", Side::Twin(EMPTY)),
            2.0,
        )
    };
    let plans = [
        plan("nothing attached", Side::Nothing),
        plan("empty twin", Side::Twin(EMPTY)),
        same_hooks,
        listing("netio", Side::Ours(HookChoice::Tracepoint)),
        plan("the tutorial's body", Side::Twin(TUTORIAL_BODY)),
        plan("tcptop's body", Side::Twin(TCPTOP_BODY)),
        plan("LRU body", Side::Twin(LRU_BODY)),
        listing(
            "hash allow-list, slot, per-CPU array",
            Side::Twin(HASH_BODY),
        ),
        plan("empty twin", Side::Twin(EMPTY)),
    ];
    let (rounds, effort) = if short {
        (SHORT_ROUNDS, SHORT_EFFORT)
    } else {
        (ROUNDS, EFFORT)
    };
    let measured = measure(&plans, types, cpus, rounds, effort)?;
    let [bare, empty, same_hooks, netio, tutorial, .., again] = &measured[..] else {
        anyhow::bail!("a side was not measured");
    };
    let (bare, empty, same_hooks) = (&bare.watched, &empty.watched, &same_hooks.watched);

    let threads = match cpus.len() {
        1 => "one thread".to_owned(),
        count => format!("{count} threads of one process, each on its CPU"),
    };
    let mut section = Section::new(
        format!("{threads}: ns for a call that sends and one that receives a byte"),
        &["ns", "added to the bare pair", "times the empty twin"],
    );
    for (plan, measured) in plans.iter().zip(&measured).take(plans.len() - 1) {
        rows(&mut section, plan, measured, bare, empty);
    }

    let watched = netio.watched.over(same_hooks);
    let whole = netio.watched.times(same_hooks);
    let what = "netio watched ÷ empty twin at its hooks, whole pairs";
    section.goal(Goal::at_most(MOST_OF_WHOLE, what, &whole).gating());
    if cpus.len() == 1 {
        let times = netio.watched.over(bare).times(&tutorial.watched.over(bare));
        let what = "netio watched ÷ the tutorial's body, each over the bare pair";
        section.goal(Goal::at_most(MOST_OF_TUTORIAL, what, &times).gating());
        let a_program = |_: f64, over: f64| over / programs;
        let unwatched = netio.unwatched.over(same_hooks);
        let unwatched = unwatched.with(&unwatched, a_program);
        let what = "ns a program, un-watched over empty";
        section.goal(Goal::at_most(MOST_UNWATCHED, what, &unwatched));
        let what = "ns a program, watched over empty";
        let a_program = watched.with(&watched, a_program);
        section.goal(Goal::at_most(MOST_WATCHED, what, &a_program));
        let times = tutorial.watched.over(empty).times(&watched);
        let what = "the tutorial's body over empty ÷ netio's over its empty";
        section.goal(Goal::at_least(TIMES_CHEAPER, what, &times));
    } else {
        let times = tutorial.watched.over(bare).times(&netio.watched.over(bare));
        let what = "the tutorial's body over the bare pair ÷ netio's";
        section.goal(Goal::at_least(TIMES_CHEAPER_AT_TWO, what, &times));
    }
    section.check_drift(empty, &again.watched);
    Ok(section)
}
