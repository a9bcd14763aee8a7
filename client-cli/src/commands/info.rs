//! `info`: shows what a collector is, what it cannot see, and loudly what it
//! missed.

use std::{fmt::Write as _, time::Duration};

use netio::v1;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    align::align,
    args::{Format, Info},
    conn::{Connection, Embedding, Wish},
    failure::{Failure, Origin},
    json, output, process, text,
};

mod cost;

/// Runs it. A collector without hooks is shown, and is a failure.
pub(crate) async fn run(args: Info) -> Result<(), Failure> {
    let embedding = Embedding::Allowed(args.embed.settings());
    let wish = Wish::new(args.connect, embedding)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let origin = connection.rpc.origin().clone();
    let shown = connection.rpc.info().await.and_then(|info| {
        output::print(&match args.output.format {
            Format::Table => for_people(&info, &origin),
            Format::Json => json::line(&for_programs(&info, &origin))?,
        })?;
        match info.hook_mode() {
            v1::HookMode::Unspecified => Err(Failure::without_probes(&origin)),
            _ => Ok(()),
        }
    });
    connection.close(shown).await
}

fn mode(mode: v1::HookMode) -> &'static str {
    match mode {
        v1::HookMode::Unspecified => "none",
        v1::HookMode::Tracepoint => "tracepoint",
        v1::HookMode::Fentry => "fentry",
        v1::HookMode::Kprobe => "kprobe",
    }
}

fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(netio::time::duration).unwrap_or_default()
}

/// Such as "250ms" or "1h".
fn in_words(of: Option<prost_types::Duration>) -> String {
    humantime::format_duration(duration(of)).to_string()
}

pub(crate) fn for_people(info: &v1::CollectorInfo, origin: &Origin) -> String {
    let limits = info.limits.unwrap_or_default();
    let facts: [[&str; 2]; 17] = [
        [
            "collector",
            &format!("netio-collector {} {origin}", text::line(&info.version)),
        ],
        ["kernel", &text::line(&info.kernel_release)],
        ["hooks", mode(info.hook_mode())],
        ["probes", &probes(info)],
        ["received calls", &text::line(&info.received_calls_meaning)],
        ["children", children(info)],
        ["if killed", &if_killed(info)],
        ["interval", &in_words(info.interval)],
        ["missed ticks", &info.missed_ticks.to_string()],
        ["missed events", &missed(info)],
        ["without a line", &without_a_line(info)],
        [
            "watches",
            &format!(
                "{} of at most {}; of one owner at most {}",
                info.watches, limits.max_watches, limits.max_watches_per_owner
            ),
        ],
        [
            "processes",
            &format!(
                "{} of at most {}; in one watch at most {}",
                info.processes, limits.max_processes, limits.max_processes_per_watch
            ),
        ],
        [
            "subscribers",
            &format!(
                "{} of at most {}; watch ids in one subscription at most {}",
                info.subscribers, limits.max_subscribers, limits.max_watch_ids_per_subscription
            ),
        ],
        [
            "leases",
            &format!(
                "{} by default, at most {}",
                in_words(limits.default_lease_ttl),
                in_words(limits.max_lease_ttl)
            ),
        ],
        [
            "connections",
            &format!(
                "at most {} over Unix sockets, as many over TCP, as many over TLS",
                limits.max_connections
            ),
        ],
        ["pids", &format!("those below {}", limits.max_pid)],
    ];
    let mut rows: Vec<[String; 2]> = facts.map(|row| row.map(str::to_owned)).into();
    rows.extend(cost::for_people(info.own_cost.as_ref(), &limits));
    let mut text = align(&rows);
    let programs: Vec<_> = info
        .programs
        .iter()
        .map(|it| {
            [
                String::new(),
                text::line(&it.name),
                text::line(&it.hook),
                format!("id {}", it.program_id),
            ]
        })
        .collect();
    if !programs.is_empty() {
        text += "\nPrograms in the kernel:\n";
        text += &align(&programs);
    }
    if !info.blind_spots.is_empty() {
        text += "\nBlind spots, traffic that these hooks do not count rightly:\n";
    }
    for it in &info.blind_spots {
        item(&mut text, &it.id, &it.description, &it.remedy);
    }
    if !info.attempts.is_empty() {
        text += "\nHooks that do not work here:\n";
    }
    for it in &info.attempts {
        item(&mut text, mode(it.mode()), &it.cause, &it.remedy);
    }
    text
}

/// Whether they are attached, and whether they always are.
fn probes(info: &v1::CollectorInfo) -> String {
    let rests = info.detach_when_idle.is_some();
    match info.probe_state() {
        v1::ProbeState::Unspecified => "unknown".to_owned(),
        v1::ProbeState::Attached if rests => format!(
            "attached; detached when nothing was watched for {}",
            in_words(info.detach_when_idle)
        ),
        v1::ProbeState::Attached => "attached".to_owned(),
        v1::ProbeState::Resting => {
            "resting, since nothing is watched; the next watch attaches them".to_owned()
        }
        v1::ProbeState::Failed => "none could be attached".to_owned(),
    }
}

/// What becomes of watches and totals then.
fn if_killed(info: &v1::CollectorInfo) -> String {
    if info.durable {
        return "the kernel counts on, and the next collector goes on with every watch".to_owned();
    }
    let cause = text::long_line(&info.not_durable_cause);
    match cause.is_empty() {
        true => "watches and totals are lost".to_owned(),
        false => format!("watches and totals are lost: {cause}"),
    }
}

fn probe_state(info: &v1::CollectorInfo) -> &'static str {
    match info.probe_state() {
        v1::ProbeState::Unspecified => "unknown",
        v1::ProbeState::Attached => "attached",
        v1::ProbeState::Resting => "resting",
        v1::ProbeState::Failed => "failed",
    }
}

fn children(info: &v1::CollectorInfo) -> &'static str {
    if info.follows_children {
        "can be followed"
    } else {
        "cannot be followed by these hooks, which need the kernel's BTF for it"
    }
}

/// A count that is absent could not be read, which is not zero.
fn missed(info: &v1::CollectorInfo) -> String {
    let events = info.missed_events.unwrap_or_default();
    let sockets = info.map_full.map(|it| it.sockets);
    let counts = [events.recursion, events.kretprobe, sockets];
    if counts == [Some(0); 3] {
        return "none".to_owned();
    }
    let [recursion, kretprobe, sockets] =
        counts.map(|count| count.map_or("unknown".to_owned(), |it| it.to_string()));
    let counts_shown =
        format!("recursion {recursion}, kretprobe {kretprobe}, sockets not followed {sockets}");
    if counts.iter().flatten().any(|count| *count > 0) {
        format!("WARNING: totals are not exact, mostly too low: {counts_shown}")
    } else {
        counts_shown
    }
}

/// Nothing is missed by it: the sums are right.
fn without_a_line(info: &v1::CollectorInfo) -> String {
    match info.map_full.map(|it| it.processes) {
        None => "unknown".to_owned(),
        Some(0) => "none".to_owned(),
        Some(processes) => format!("{} (counted in the sums)", process::count(processes)),
    }
}

fn item(text: &mut String, name: &str, what: &str, remedy: &str) {
    let _ = writeln!(text, "  {}: {}", text::line(name), text::long_line(what));
    if !remedy.is_empty() {
        let _ = writeln!(text, "    what to do: {}", text::long_line(remedy));
    }
}

pub(crate) fn for_programs(info: &v1::CollectorInfo, origin: &Origin) -> Value {
    let instance = info.instance.clone().unwrap_or_default();
    let missed = info.missed_events.unwrap_or_default();
    let limits = info.limits.unwrap_or_default();
    json!({
        "endpoint": match origin {
            Origin::Remote(endpoint) => Some(endpoint.to_string()),
            Origin::InProcess => None,
        },
        "version": text::line(&info.version),
        "boot_id": text::line(&instance.boot_id),
        "generation": instance.generation,
        "kernel_release": text::line(&info.kernel_release),
        "hook_mode": mode(info.hook_mode()),
        "probe_state": probe_state(info),
        "detach_when_idle_s": info.detach_when_idle.map(|it| duration(Some(it)).as_secs_f64()),
        "durable": info.durable,
        "not_durable_cause": text::long_line(&info.not_durable_cause),
        "programs": info.programs.iter().map(|it| json!({
            "name": text::line(&it.name),
            "hook": text::line(&it.hook),
            "program_id": it.program_id,
        })).collect::<Vec<_>>(),
        "blind_spots": info.blind_spots.iter().map(|it| json!({
            "id": text::line(&it.id),
            "description": text::long_line(&it.description),
            "remedy": text::long_line(&it.remedy),
        })).collect::<Vec<_>>(),
        "attempts": info.attempts.iter().map(|it| json!({
            "mode": mode(it.mode()),
            "cause": text::long_line(&it.cause),
            "remedy": text::long_line(&it.remedy),
        })).collect::<Vec<_>>(),
        "received_calls_meaning": text::line(&info.received_calls_meaning),
        "interval_s": duration(info.interval).as_secs_f64(),
        "missed_ticks": info.missed_ticks,
        "missed_events": {
            "recursion": missed.recursion,
            "kretprobe": missed.kretprobe,
        },
        "map_full": {
            "processes": info.map_full.map(|it| it.processes),
            "sockets": info.map_full.map(|it| it.sockets),
        },
        "follows_children": info.follows_children,
        "watches": info.watches,
        "processes": info.processes,
        "subscribers": info.subscribers,
        "own_cost": info.own_cost.as_ref().map(cost::for_programs),
        "limits": {
            "max_watches": limits.max_watches,
            "max_watches_per_owner": limits.max_watches_per_owner,
            "max_processes": limits.max_processes,
            "max_processes_per_watch": limits.max_processes_per_watch,
            "max_subscribers": limits.max_subscribers,
            "max_watch_ids_per_subscription": limits.max_watch_ids_per_subscription,
            "max_lease_ttl_s": duration(limits.max_lease_ttl).as_secs_f64(),
            "default_lease_ttl_s": duration(limits.default_lease_ttl).as_secs_f64(),
            "max_pid": limits.max_pid,
            "max_history_s": duration(limits.max_history).as_secs_f64(),
            "max_history_bytes": limits.max_history_bytes,
            "max_connections": limits.max_connections,
        },
    })
}

#[cfg(test)]
mod tests;
