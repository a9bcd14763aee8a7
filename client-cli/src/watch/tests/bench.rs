//! The loop at work on a scripted collector: what a test needs to run the one
//! and to move the other.

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    args::Connect,
    conn::{Connection, Embedding, Wish},
    endpoint::Credentials,
    watch::tests::scripted::Scripted,
};

/// A collector that runs until this is dropped, and a connection to it.
pub(super) struct Scene {
    pub(super) collector: Scripted,
    pub(super) stop: CancellationToken,
    pub(super) connection: Connection,
    server: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a command said and did.
pub(super) struct Shown {
    pub(super) outcome: Result<(), Failure>,
    pub(super) lines: String,
    pub(super) notes: String,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("collector.sock");
        let collector = Scripted::default();
        let server = tokio::spawn(collector.serve(&socket));
        let stop = CancellationToken::new();
        let endpoint = format!("unix://{}", socket.display()).parse().unwrap();
        let connect = Connect {
            endpoint: Some(endpoint),
            credentials: Credentials::default(),
        };
        let wish = Wish::new(connect, Embedding::Pointless).unwrap();
        let connection = Connection::open(wish, stop.clone()).await.unwrap();
        Self {
            collector,
            stop,
            connection,
            server,
            _dir: dir,
        }
    }

    /// Watches as a command would.
    pub(super) async fn watch(&self, order: &Order, view: View) -> Shown {
        let mut output = Output {
            out: Vec::new(),
            err: Vec::new(),
        };
        let rpc = &self.connection.rpc;
        let outcome = run(rpc, order, view, &mut output, &self.stop).await;
        Shown {
            outcome,
            lines: String::from_utf8(output.out).unwrap(),
            notes: String::from_utf8(output.err).unwrap(),
        }
    }

    /// Waits until the newest stream names these watches.
    pub(super) async fn narrowed(&self, watch_ids: &[&str]) {
        until(|| {
            let streams = self.collector.streams();
            streams.last().is_some_and(|last| last == watch_ids)
        })
        .await;
    }
}

/// For these targets, with a lease that is renewed every 50 ms at least.
pub(super) fn order(targets: impl IntoIterator<Item = v1::Target>, count: u64) -> Order {
    Order {
        subject: Subject::Made(Wanted::new(targets, true)),
        lease: Duration::from_millis(150),
        shape: Shape::default(),
        count: Some(count),
        patience: Patience {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(50),
            limit: Duration::from_secs(10),
            look: Duration::from_millis(100),
        },
    }
}

/// A table on a terminal.
pub(super) fn table() -> View {
    View::Table(Table::new(jiff::tz::TimeZone::UTC, true))
}
