//! Every mode in instructions: which of them a kernel's modes need more than an
//! empty program on the same hooks.

use anyhow::Result;
use aya::Btf;
use netio_collector::probe::HookChoice;

use super::{
    Calls, Effort, Measured, Plan, listing, measure, plan, rows,
    sides::{
        EMPTY, EMPTY_EXIT, EMPTY_EXIT_OF_TCP, EMPTY_PROBES, HASH_BODY, LRU_BODY, Side, TCPTOP_BODY,
        TUTORIAL_BODY,
    },
};
use crate::{
    report::{Goal, Section},
    rounds::Rounds,
};

const ROUNDS: usize = 9;
/// Emulated, and the same in every batch: few suffice.
const EFFORT: Effort = Effort {
    calls: Calls::InTurn,
    pairs: 500,
    batches: 3,
};

const BARE: Plan = plan("nothing attached", Side::Nothing);
const REAL_TUTORIAL: Plan = plan(
    "the tutorial's real kretprobe + kprobe program",
    Side::Tutorial,
);

/// One mode: its title, the empty twin, others on the same hooks, and netio.
struct Mode {
    title: &'static str,
    hooks: HookChoice,
    empty: Plan,
    others: &'static [Plan],
    most_unwatched: Option<f64>,
    most_watched: f64,
}

const MODES: [Mode; 3] = [
    Mode {
        title: "tracepoint mode",
        hooks: HookChoice::Tracepoint,
        empty: plan(
            "empty tp_btf sock_send_length + sock_recv_length",
            Side::Twin(EMPTY),
        ),
        others: &[
            listing(
                "hash allow-list, slot, per-CPU array",
                Side::Twin(HASH_BODY),
            ),
            plan("the tutorial's body", Side::Twin(TUTORIAL_BODY)),
            plan("tcptop's body", Side::Twin(TCPTOP_BODY)),
            plan("LRU body", Side::Twin(LRU_BODY)),
        ],
        most_unwatched: Some(1.3),
        most_watched: 1.6,
    },
    Mode {
        title: "fentry mode",
        hooks: HookChoice::Fentry,
        empty: plan(
            "empty fexit inet_sendmsg + inet_recvmsg",
            Side::Twin(EMPTY_EXIT),
        ),
        others: &[plan(
            "empty fexit tcp_sendmsg + tcp_recvmsg",
            Side::Twin(EMPTY_EXIT_OF_TCP),
        )],
        most_unwatched: None,
        most_watched: 1.4,
    },
    Mode {
        title: "kprobe mode",
        hooks: HookChoice::Kprobe,
        empty: plan(
            "empty kretprobe tcp_sendmsg + kprobe tcp_cleanup_rbuf",
            Side::Twin(EMPTY_PROBES),
        ),
        others: &[],
        most_unwatched: None,
        most_watched: 1.4,
    },
];

/// How many times the tutorial's real program costs what the tracepoint mode does.
const TIMES_FEWER: f64 = 7.0;

pub(super) fn sections(types: &Btf, short: bool) -> Result<Vec<Section>> {
    let rounds = if short { 3 } else { ROUNDS };
    MODES
        .iter()
        .map(|mode| section(mode, types, rounds))
        .collect()
}

fn section(mode: &Mode, types: &Btf, rounds: usize) -> Result<Section> {
    let ours = listing("netio", Side::Ours(mode.hooks));
    let mut plans = vec![BARE, mode.empty, ours, REAL_TUTORIAL];
    plans.extend(mode.others);
    plans.push(mode.empty);
    let measured = measure(&plans, types, &[0], rounds, EFFORT)?;
    let figure = |place: usize| measured.get(place).map(|it| &it.watched);
    let (Some(bare), Some(empty), Some(netio), Some(tutorial), Some(again)) = (
        figure(0),
        figure(1),
        measured.get(2),
        figure(3),
        figure(plans.len() - 1),
    ) else {
        anyhow::bail!("a side was not measured");
    };
    let mut section = Section::new(
        format!(
            "{}: instructions for 64 bytes sent and received",
            mode.title
        ),
        &[
            "instructions",
            "added to the bare pair",
            "times the empty twin",
        ],
    );
    for (plan, measured) in plans.iter().zip(&measured).take(plans.len() - 1) {
        rows(&mut section, plan, measured, bare, empty);
    }
    goals(&mut section, mode, netio, tutorial, bare, empty);
    section.check_drift(&empty.over(bare), &again.over(bare));
    Ok(section)
}

fn goals(
    section: &mut Section,
    mode: &Mode,
    netio: &Measured,
    tutorial: &Rounds,
    bare: &Rounds,
    empty: &Rounds,
) {
    let empty = empty.over(bare);
    let watched = netio.watched.over(bare);
    if let Some(most) = mode.most_unwatched {
        let times = netio.unwatched.over(bare).times(&empty);
        section.goal(Goal::at_most(most, "un-watched ÷ empty", &times).gating());
    }
    let times = watched.times(&empty);
    section.goal(Goal::at_most(mode.most_watched, "watched ÷ empty", &times).gating());
    if mode.hooks == HookChoice::Tracepoint {
        let times = tutorial.over(bare).times(&watched);
        let what = "the tutorial's real program ÷ watched";
        section.goal(Goal::at_least(TIMES_FEWER, what, &times).gating());
    }
}
