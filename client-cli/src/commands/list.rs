//! `list`: shows every watch of a collector.

use jiff::{Timestamp, tz::TimeZone};
use netio::v1;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{Format, List},
    conn::{Connection, Wish},
    failure::Failure,
    json,
    model::timestamp,
    output,
    table::align,
    text,
};

/// Runs it.
pub(crate) async fn run(args: List) -> Result<(), Failure> {
    let wish = Wish::new(args.connect.endpoint, None)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let watches = connection.rpc.list().await;
    let shown = watches.and_then(|watches| {
        let watches: Vec<Row> = watches.into_iter().map(Row::from).collect();
        if watches.is_empty() && args.output.format == Format::Table {
            output::note("nothing is watched");
            return Ok(());
        }
        output::print(&match args.output.format {
            Format::Table => table(&watches, &TimeZone::system()),
            Format::Json => watches.iter().map(json::line).collect::<Result<_, _>>()?,
        })
    });
    connection.close(shown).await
}

/// A watch, fit for a terminal.
#[derive(Serialize)]
struct Row {
    watch_id: String,
    pid: u32,
    name: String,
    start_time_ns: u64,
    owner: String,
    /// RFC 3339, UTC; null if the collector sent none.
    create_time: Option<String>,
    #[serde(skip)]
    since: Option<Timestamp>,
}

impl From<v1::Watch> for Row {
    fn from(watch: v1::Watch) -> Self {
        let process = watch.process.unwrap_or_default();
        let since = watch.create_time.and_then(timestamp);
        Self {
            watch_id: text::line(&watch.watch_id),
            pid: process.pid,
            name: text::line(&process.name),
            start_time_ns: process.start_time_ns,
            owner: text::line(&watch.owner),
            create_time: since.map(|time| time.to_string()),
            since,
        }
    }
}

fn table(watches: &[Row], zone: &TimeZone) -> String {
    let header = ["WATCH_ID", "PID", "NAME", "OWNER", "SINCE"].map(str::to_owned);
    let rows = watches.iter().map(|watch| {
        let since = watch.since.map_or_else(String::new, |time| {
            time.to_zoned(zone.clone()).strftime("%F %T").to_string()
        });
        [
            watch.watch_id.clone(),
            watch.pid.to_string(),
            watch.name.clone(),
            watch.owner.clone(),
            since,
        ]
    });
    align(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::from(v1::Watch {
            watch_id: "w-12".to_owned(),
            target: None,
            process: Some(v1::Process {
                pid: 4242,
                start_time_ns: 5,
                name: "mar\u{1b}db".to_owned(),
            }),
            owner: "uid:0".to_owned(),
            create_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
        })
    }

    #[test]
    fn for_people() {
        assert_eq!(
            table(&[row()], &TimeZone::UTC),
            "\
WATCH_ID  PID   NAME    OWNER  SINCE
w-12      4242  mar\u{fffd}db  uid:0  2023-11-14 22:13:20
"
        );
    }

    #[test]
    fn for_programs() {
        let value: serde_json::Value = serde_json::from_str(&json::line(&row()).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "watch_id": "w-12", "pid": 4242, "name": "mar\u{fffd}db", "start_time_ns": 5,
                "owner": "uid:0", "create_time": "2023-11-14T22:13:20Z",
            })
        );
    }
}
