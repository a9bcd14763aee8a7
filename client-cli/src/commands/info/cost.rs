//! What the collector itself costs, and how far its history goes: takes the
//! collector's figures, produces rows for people and an object for programs.

use netio::v1;
use serde_json::{Value, json};

use super::{duration, in_words};
use crate::units;

/// Rows of a name and what there is to say. Figures that the collector does not
/// tell are unknown, which is not zero.
pub(super) fn for_people(cost: Option<&v1::OwnCost>, limits: &v1::Limits) -> Vec<[String; 2]> {
    let tell = |told: fn(&v1::OwnCost) -> String| cost.map_or("unknown".to_owned(), told);
    let at_most = format!(
        "at most {} and {}",
        in_words(limits.max_history),
        bytes(limits.max_history_bytes)
    );
    let history = match cost {
        Some(cost) => {
            let taken = bytes(cost.history_bytes);
            format!("{} ticks in {taken}; {at_most}", cost.history_ticks)
        }
        None => at_most,
    };
    let rows = [
        ("program runs", tell(runs)),
        ("tick duration", tell(|it| percentiles(it.tick_duration))),
        ("tick lateness", tell(|it| percentiles(it.tick_lateness))),
        ("sent", tell(sent)),
        ("memory", tell(|it| bytes(it.resident_bytes))),
        ("history", history),
    ];
    rows.map(|(name, told)| [name.to_owned(), told]).into()
}

/// The kernel counts them only if it is told to.
fn runs(cost: &v1::OwnCost) -> String {
    let (Some(runs), Some(time)) = (cost.program_runs, cost.program_time) else {
        return "not counted by the kernel; to count them: \
                sysctl kernel.bpf_stats_enabled=1"
            .to_owned();
    };
    let time = duration(Some(time));
    let each = match runs {
        0 => String::new(),
        runs => {
            let nanos = time.as_nanos() / u128::from(runs);
            format!(", {nanos}ns each")
        }
    };
    format!("{runs} in {time:.1?}{each}")
}

fn percentiles(of: Option<v1::Percentiles>) -> String {
    let Some(of) = of else {
        return "unknown".to_owned();
    };
    let [p50, p99, max] = [of.p50, of.p99, of.max].map(duration);
    format!("half below {p50:.1?}, 99 of 100 below {p99:.1?}, at most {max:.1?}")
}

fn sent(cost: &v1::OwnCost) -> String {
    format!(
        "{} messages, {}; ticks that slow subscribers skipped: {}",
        cost.sent_messages,
        bytes(cost.sent_bytes),
        cost.skipped_ticks
    )
}

fn bytes(count: u64) -> String {
    units::bytes(count as f64).trim().to_owned()
}

/// Times in seconds; null where the kernel does not count.
pub(super) fn for_programs(cost: &v1::OwnCost) -> Value {
    let percentiles = |of: Option<v1::Percentiles>| {
        of.map(|of| {
            let [p50, p99, max] = [of.p50, of.p99, of.max].map(|it| duration(it).as_secs_f64());
            json!({"p50": p50, "p99": p99, "max": max})
        })
    };
    let program_time = cost.program_time;
    json!({
        "program_runs": cost.program_runs,
        "program_time_s": program_time.map(|it| duration(Some(it)).as_secs_f64()),
        "tick_duration_s": percentiles(cost.tick_duration),
        "tick_lateness_s": percentiles(cost.tick_lateness),
        "sent_bytes": cost.sent_bytes,
        "sent_messages": cost.sent_messages,
        "skipped_ticks": cost.skipped_ticks,
        "resident_bytes": cost.resident_bytes,
        "history_bytes": cost.history_bytes,
        "history_ticks": cost.history_ticks,
    })
}
