//! `list`: shows every watch of a collector.

use std::time::SystemTime;

use jiff::Timestamp;
use netio::v1;
use serde::{Serialize, Serializer};
use tokio_util::sync::CancellationToken;

use crate::{
    align::align,
    args::{Format, List},
    conn::{Connection, Embedding, Wish},
    failure::Failure,
    json,
    model::timestamp,
    output,
    process::Process,
    target, text, units,
};

/// Runs it.
pub(crate) async fn run(args: List) -> Result<(), Failure> {
    let wish = Wish::new(args.connect, Embedding::Pointless)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let watches = connection.rpc.list().await;
    let shown = watches.and_then(|watches| {
        let watches: Vec<Row> = watches.into_iter().map(Row::from).collect();
        if watches.is_empty() && args.output.format == Format::Table {
            output::note("nothing is watched");
            return Ok(());
        }
        output::print(&match args.output.format {
            Format::Table => table(&watches, Timestamp::now()),
            Format::Json => watches.iter().map(json::line).collect::<Result<_, _>>()?,
        })
    });
    connection.close(shown).await
}

/// A watch, fit for a terminal. The keys are part of the command's interface.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) watch_id: String,
    /// In words, such as "port 3306".
    pub(super) target: String,
    follow_children: bool,
    pub(super) process_count: u32,
    pub(super) processes: Vec<Process>,
    owner: String,
    /// RFC 3339, UTC; null if the collector sent none.
    #[serde(serialize_with = "in_words")]
    create_time: Option<Timestamp>,
    /// Null for a standing watch.
    lease: Option<Lease>,
}

fn in_words<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(to)
}

#[derive(Serialize)]
struct Lease {
    ttl_s: f64,
    remaining_s: f64,
    held: bool,
}

impl From<v1::Watch> for Row {
    fn from(watch: v1::Watch) -> Self {
        Self {
            watch_id: text::line(&watch.watch_id),
            target: target::describe(&watch.target.unwrap_or_default()),
            follow_children: watch.follow_children,
            process_count: watch.process_count,
            processes: watch.processes.into_iter().map(Process::from).collect(),
            owner: text::line(&watch.owner),
            create_time: watch.create_time.and_then(timestamp),
            lease: watch.lease.map(Lease::from),
        }
    }
}

impl From<v1::Lease> for Lease {
    fn from(lease: v1::Lease) -> Self {
        let seconds = |duration: Option<prost_types::Duration>| {
            let duration = duration.and_then(netio::time::duration);
            duration.unwrap_or_default().as_secs_f64()
        };
        Self {
            ttl_s: seconds(lease.ttl),
            remaining_s: seconds(lease.remaining),
            held: lease.held,
        }
    }
}

pub(crate) fn table(watches: &[Row], now: Timestamp) -> String {
    let header = [
        "WATCH_ID",
        "TARGET",
        "PROCESSES",
        "PID",
        "NAME",
        "OWNER",
        "AGE",
        "LEASE",
    ];
    let rows = watches.iter().map(|watch| {
        let first = watch.processes.first();
        let or_nobody = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        [
            watch.watch_id.clone(),
            watch.target.clone(),
            watch.process_count.to_string(),
            or_nobody(first.map(|it| it.pid.to_string())),
            or_nobody(first.map(|it| it.name.clone())),
            watch.owner.clone(),
            or_nobody(watch.create_time.map(|begin| age(begin, now))),
            lease(watch.lease.as_ref()),
        ]
    });
    let header = header.map(str::to_owned);
    align(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}

/// A collector whose clock is ahead has no watches from the future.
fn age(begin: Timestamp, now: Timestamp) -> String {
    let begin = SystemTime::from(begin);
    let age = SystemTime::from(now).duration_since(begin);
    units::age(age.unwrap_or_default())
}

fn lease(lease: Option<&Lease>) -> String {
    match lease {
        None => "standing".to_owned(),
        Some(lease) if lease.held => "held".to_owned(),
        Some(lease) => format!("{:.0} s left", lease.remaining_s),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn duration(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    fn watch() -> v1::Watch {
        v1::Watch {
            watch_id: "w-12".to_owned(),
            target: Some(v1::Target::port(3306)),
            processes: vec![v1::Process {
                pid: 4242,
                start_time_ns: 5,
                name: "mar\u{1b}db".to_owned(),
                container_pid: 1,
                cgroup: "/a".to_owned(),
            }],
            process_count: 3,
            follow_children: true,
            owner: "uid:0".to_owned(),
            create_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            lease: Some(v1::Lease {
                ttl: duration(10, 0),
                remaining: duration(6, 900_000_000),
                held: false,
            }),
        }
    }

    #[test]
    fn for_people() {
        let mut held = watch();
        held.lease = held.lease.map(|lease| v1::Lease {
            held: true,
            ..lease
        });
        let waits = v1::Watch {
            watch_id: "w-2".to_owned(),
            target: Some(v1::Target::name("db")),
            processes: Vec::new(),
            process_count: 0,
            lease: None,
            ..watch()
        };
        let rows = [watch(), held, waits].map(Row::from);
        let begin = rows[0].create_time.unwrap();
        assert_eq!(
            table(&rows, begin + Duration::from_secs(303)),
            "\
WATCH_ID  TARGET     PROCESSES  PID   NAME    OWNER  AGE        LEASE
w-12      port 3306  3          4242  mar\u{fffd}db  uid:0  5 min 3 s  7 s left
w-12      port 3306  3          4242  mar\u{fffd}db  uid:0  5 min 3 s  held
w-2       name db    0          -     -       uid:0  5 min 3 s  standing
"
        );
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_age() {
        let row = Row::from(watch());
        let now = row.create_time.unwrap() - Duration::from_secs(60);
        assert!(table(&[row], now).contains("  0 s  "));
    }

    #[test]
    fn for_programs() {
        let line = json::line(&Row::from(watch())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "watch_id": "w-12", "target": "port 3306", "follow_children": true,
                "process_count": 3, "processes": [{
                    "pid": 4242, "start_time_ns": 5, "name": "mar\u{fffd}db",
                    "container_pid": 1, "cgroup": "/a",
                }],
                "owner": "uid:0", "create_time": "2023-11-14T22:13:20Z",
                "lease": {"ttl_s": 10.0, "remaining_s": 6.9, "held": false},
            })
        );
    }

    #[test]
    fn a_standing_watch_has_no_lease() {
        let standing = v1::Watch {
            lease: None,
            ..watch()
        };
        let line = json::line(&Row::from(standing)).unwrap();
        assert!(line.contains(r#""lease":null"#), "{line}");
    }
}
