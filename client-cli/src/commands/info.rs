//! `info`: shows what a collector is, what it cannot see, and loudly what it
//! missed.

use std::{fmt::Write as _, time::Duration};

use netio::v1;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{Format, Info},
    conn::{Connection, Wish},
    failure::{Failure, Origin},
    json, output,
    table::align,
    text,
};

/// Runs it. A collector without hooks is shown, and is a failure.
pub(crate) async fn run(args: Info) -> Result<(), Failure> {
    let wish = Wish::new(args.connect.endpoint, Some(args.embed.settings()))?;
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

fn interval(info: &v1::CollectorInfo) -> Duration {
    let interval = info.interval.and_then(|it| Duration::try_from(it).ok());
    interval.unwrap_or_default()
}

fn for_people(info: &v1::CollectorInfo, origin: &Origin) -> String {
    let limits = info.limits.unwrap_or_default();
    let facts = [
        [
            "collector",
            &format!("netio-collector {} {origin}", text::line(&info.version)),
        ],
        ["kernel", &text::line(&info.kernel_release)],
        ["hooks", mode(info.hook_mode())],
        ["received calls", &text::line(&info.received_calls_meaning)],
        ["interval", &format!("{:?}", interval(info))],
        ["missed ticks", &info.missed_ticks.to_string()],
        [
            "missed events",
            &missed(&info.missed_events.unwrap_or_default()),
        ],
        [
            "subscribers",
            &format!("{} of at most {}", info.subscribers, limits.max_subscribers),
        ],
        [
            "limits",
            &format!(
                "{} watches, {} watch ids per subscription, pids below {}",
                limits.max_watches, limits.max_watch_ids_per_subscription, limits.max_pid
            ),
        ],
    ];
    let mut text = align(&facts.map(|row| row.map(str::to_owned)));
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

/// A count that is absent could not be read, which is not zero.
fn missed(missed: &v1::MissedEvents) -> String {
    let counts = [missed.recursion, missed.kretprobe, missed.map_full];
    if counts == [Some(0); 3] {
        return "none".to_owned();
    }
    let [recursion, kretprobe, map_full] =
        counts.map(|count| count.map_or("unknown".to_owned(), |it| it.to_string()));
    let counts_shown = format!("recursion {recursion}, kretprobe {kretprobe}, map full {map_full}");
    if counts.iter().flatten().any(|count| *count > 0) {
        format!("WARNING: totals are too low by an unknown amount: {counts_shown}")
    } else {
        counts_shown
    }
}

fn item(text: &mut String, name: &str, what: &str, remedy: &str) {
    let _ = writeln!(text, "  {}: {}", text::line(name), text::message(what));
    if !remedy.is_empty() {
        let _ = writeln!(text, "    what to do: {}", text::message(remedy));
    }
}

fn for_programs(info: &v1::CollectorInfo, origin: &Origin) -> Value {
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
        "programs": info.programs.iter().map(|it| json!({
            "name": text::line(&it.name),
            "hook": text::line(&it.hook),
            "program_id": it.program_id,
        })).collect::<Vec<_>>(),
        "blind_spots": info.blind_spots.iter().map(|it| json!({
            "id": text::line(&it.id),
            "description": text::message(&it.description),
            "remedy": text::message(&it.remedy),
        })).collect::<Vec<_>>(),
        "attempts": info.attempts.iter().map(|it| json!({
            "mode": mode(it.mode()),
            "cause": text::message(&it.cause),
            "remedy": text::message(&it.remedy),
        })).collect::<Vec<_>>(),
        "received_calls_meaning": text::line(&info.received_calls_meaning),
        "interval_s": interval(info).as_secs_f64(),
        "missed_ticks": info.missed_ticks,
        "missed_events": {
            "recursion": missed.recursion,
            "kretprobe": missed.kretprobe,
            "map_full": missed.map_full,
        },
        "subscribers": info.subscribers,
        "limits": {
            "max_watches": limits.max_watches,
            "max_subscribers": limits.max_subscribers,
            "max_watch_ids_per_subscription": limits.max_watch_ids_per_subscription,
            "max_pid": limits.max_pid,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> v1::CollectorInfo {
        v1::CollectorInfo {
            version: "0.1.0".to_owned(),
            instance: None,
            kernel_release: "6.1.0".to_owned(),
            hook_mode: v1::HookMode::Fentry.into(),
            programs: vec![v1::AttachedProgram {
                name: "send".to_owned(),
                hook: "fexit/tcp_sendmsg".to_owned(),
                program_id: 12,
            }],
            blind_spots: vec![v1::BlindSpot {
                id: "ktls-receive".to_owned(),
                description: "counted as ciphertext".to_owned(),
                remedy: "Linux 6.3 or later".to_owned(),
            }],
            missed_events: Some(v1::MissedEvents {
                recursion: Some(0),
                kretprobe: Some(0),
                map_full: Some(0),
            }),
            limits: Some(v1::Limits {
                max_watches: 1,
                max_subscribers: 2,
                max_watch_ids_per_subscription: 3,
                max_pid: 4,
            }),
            interval: Some(prost_types::Duration {
                seconds: 0,
                nanos: 250_000_000,
            }),
            missed_ticks: 5,
            subscribers: 1,
            received_calls_meaning: "calls".to_owned(),
            attempts: vec![v1::ModeAttempt {
                mode: v1::HookMode::Tracepoint.into(),
                cause: "no such tracepoint\u{1b}".to_owned(),
                remedy: String::new(),
            }],
        }
    }

    #[test]
    fn people_see_everything() {
        let shown = for_people(&info(), &Origin::InProcess);
        assert_eq!(
            shown,
            "\
collector       netio-collector 0.1.0 within this process
kernel          6.1.0
hooks           fentry
received calls  calls
interval        250ms
missed ticks    5
missed events   none
subscribers     1 of at most 2
limits          1 watches, 3 watch ids per subscription, pids below 4

Programs in the kernel:
  send  fexit/tcp_sendmsg  id 12

Blind spots, traffic that these hooks do not count rightly:
  ktls-receive: counted as ciphertext
    what to do: Linux 6.3 or later

Hooks that do not work here:
  tracepoint: no such tracepoint\u{fffd}
"
        );
    }

    #[test]
    fn missed_events_are_loud() {
        let mut info = info();
        info.missed_events = Some(v1::MissedEvents {
            recursion: None,
            kretprobe: Some(7),
            map_full: Some(0),
        });
        let shown = for_people(&info, &Origin::InProcess);
        assert!(shown.contains("WARNING: totals are too low"), "{shown}");
        assert!(
            shown.contains("recursion unknown, kretprobe 7, map full 0"),
            "{shown}"
        );
    }

    #[test]
    fn what_could_not_be_read_is_unknown_and_not_none() {
        let mut info = info();
        info.missed_events = Some(v1::MissedEvents {
            recursion: None,
            kretprobe: Some(0),
            map_full: Some(0),
        });
        let shown = for_people(&info, &Origin::InProcess);
        assert!(
            shown.contains("missed events   recursion unknown, kretprobe 0, map full 0\n"),
            "{shown}"
        );
        let value = for_programs(&info, &Origin::InProcess);
        assert_eq!(
            value["missed_events"],
            json!({"recursion": null, "kretprobe": 0, "map_full": 0})
        );
        info.missed_events = None;
        let shown = for_people(&info, &Origin::InProcess);
        assert!(
            shown.contains("recursion unknown, kretprobe unknown, map full unknown"),
            "{shown}"
        );
    }

    #[test]
    fn programs_get_numbers() {
        let value = for_programs(&info(), &Origin::Remote("http://h:1".parse().unwrap()));
        assert_eq!(value["endpoint"], "http://h:1");
        assert_eq!(value["hook_mode"], "fentry");
        assert_eq!(value["interval_s"], 0.25);
        assert_eq!(value["programs"][0]["program_id"], 12);
        assert_eq!(value["limits"]["max_pid"], 4);
        assert_eq!(value["attempts"][0]["cause"], "no such tracepoint\u{fffd}");
    }
}
