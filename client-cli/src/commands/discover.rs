//! `discover`: shows the database servers that run on the collector's host, and
//! how to watch each.

use netio::v1;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    align::align,
    args::{Discover, Format},
    conn::{Connection, Embedding, Wish},
    embedded::Settings,
    endpoint::Endpoint,
    failure::Failure,
    json, output,
    process::Process,
    target, text,
};

/// Digits of a container's id that tell it well enough.
const SHORT_ID: usize = 12;

/// Runs it. That there are none is an answer, and no failure.
pub(crate) async fn run(args: Discover) -> Result<(), Failure> {
    let embedding = Embedding::Allowed(Settings::default());
    let named = args.connect.named();
    let wish = Wish::new(args.connect, embedding)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let databases = connection.rpc.discover().await;
    let shown = databases.and_then(|databases| {
        let rows = databases.into_iter().map(|it| Row::new(it, named.as_ref()));
        let rows: Vec<Row> = rows.collect();
        if rows.is_empty() {
            output::note("no database server was found among the processes that run");
            return Ok(());
        }
        output::print(&match args.output.format {
            Format::Table => table(&rows),
            Format::Json => rows.iter().map(json::line).collect::<Result<_, _>>()?,
        })
    });
    connection.close(shown).await
}

/// A database server, fit for a terminal. The keys are part of the command's
/// interface.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    process: Process,
    engine: String,
    ports: Vec<u32>,
    /// Null outside of one.
    container: Option<String>,
    /// Null if it is none's.
    unit: Option<String>,
    /// In words, such as "port 3306".
    target: String,
    /// What to type.
    command: String,
}

impl Row {
    fn new(database: v1::Database, endpoint: Option<&Endpoint>) -> Self {
        let process = Process::from(database.process.unwrap_or_default());
        let target = database
            .target
            .filter(|target| target.selector.is_some())
            .unwrap_or_else(|| v1::Target::pid(process.pid));
        let unless_empty = |text: String| Some(text).filter(|it| !it.is_empty());
        Self {
            engine: text::line(&database.engine),
            ports: database.ports,
            container: unless_empty(text::line(&database.container)),
            unit: unless_empty(text::line(&database.unit)),
            target: target::describe(&target),
            command: command(&target, endpoint),
            process,
        }
    }

    /// Where it runs.
    fn home(&self) -> String {
        let container = self.container.as_ref();
        let container = container.map(|id| id.chars().take(SHORT_ID).collect());
        container
            .or_else(|| self.unit.clone())
            .unwrap_or_else(|| "-".to_owned())
    }
}

fn command(target: &v1::Target, endpoint: Option<&Endpoint>) -> String {
    let options = target::options(target).unwrap_or_default();
    let endpoint = endpoint
        .map(|endpoint| format!(" {}", endpoint.options()))
        .unwrap_or_default();
    format!("netio-client watch {options}{endpoint}")
}

fn table(rows: &[Row]) -> String {
    let header = [
        "PID",
        "ENGINE",
        "NAME",
        "PORTS",
        "CONTAINER/UNIT",
        "TO WATCH IT",
    ];
    let lines = rows.iter().map(|row| {
        let ports: Vec<String> = row.ports.iter().map(u32::to_string).collect();
        [
            row.process.pid.to_string(),
            row.engine.clone(),
            row.process.name.clone(),
            if ports.is_empty() {
                "-".to_owned()
            } else {
                ports.join(",")
            },
            row.home(),
            row.command.clone(),
        ]
    });
    let header = header.map(str::to_owned);
    align(&[header].into_iter().chain(lines).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mariadb() -> v1::Database {
        v1::Database {
            process: Some(v1::Process {
                pid: 4242,
                start_time_ns: 5,
                name: "mar\u{1b}dbd".to_owned(),
                container_pid: 1,
                cgroup: "/docker/0123".to_owned(),
            }),
            engine: "MariaDB".to_owned(),
            ports: vec![3306, 3307],
            container: "0123456789abcdef".to_owned(),
            unit: "docker.service".to_owned(),
            target: Some(v1::Target::port(3306)),
        }
    }

    fn postgres() -> v1::Database {
        v1::Database {
            process: Some(v1::Process {
                pid: 7,
                name: "postgres".to_owned(),
                ..v1::Process::default()
            }),
            engine: "PostgreSQL".to_owned(),
            ports: Vec::new(),
            container: String::new(),
            unit: "pg@1.service".to_owned(),
            target: None,
        }
    }

    #[test]
    fn for_people() {
        let rows = [mariadb(), postgres()].map(|it| Row::new(it, None));
        assert_eq!(
            table(&rows),
            "\
PID   ENGINE      NAME      PORTS      CONTAINER/UNIT  TO WATCH IT
4242  MariaDB     mar\u{fffd}dbd   3306,3307  0123456789ab    netio-client watch --port 3306
7     PostgreSQL  postgres  -          pg@1.service    netio-client watch --pid 7
"
        );
    }

    #[test]
    fn for_programs() {
        let endpoint: Endpoint = "unix:///a b".parse().unwrap();
        let line = json::line(&Row::new(mariadb(), Some(&endpoint))).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "pid": 4242, "start_time_ns": 5, "name": "mar\u{fffd}dbd", "container_pid": 1,
                "cgroup": "/docker/0123", "engine": "MariaDB", "ports": [3306, 3307],
                "container": "0123456789abcdef", "unit": "docker.service",
                "target": "port 3306",
                "command": "netio-client watch --port 3306 --endpoint 'unix:///a b'",
            })
        );
        let line = json::line(&Row::new(postgres(), None)).unwrap();
        assert!(line.contains(r#""container":null"#), "{line}");
    }
}
