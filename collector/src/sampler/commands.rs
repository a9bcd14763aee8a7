//! What the sampler can be told to do, and how it answers.
#![forbid(unsafe_code)]

use std::time::Duration;

use netio::v1;
use tokio::sync::{mpsc, oneshot};

use crate::{
    kernel::{KernelInfo, ProcessId, figures::Figures},
    processes::{Found, Selector},
    watches::{Follow, Hold, Past, Selection, WatchError, WatchId},
};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Refused(#[from] WatchError),
    #[error("the collector is shutting down: try again when it runs again")]
    ShuttingDown,
}

/// What only the sampler knows of the collector's health.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    /// What the hooks are now.
    pub(crate) hooks: KernelInfo,
    pub(crate) probe_state: v1::ProbeState,
    /// Over all the times that hooks were attached.
    pub(crate) figures: Figures,
    pub(crate) missed_ticks: u64,
    pub(crate) tick_duration: v1::Percentiles,
    pub(crate) tick_lateness: v1::Percentiles,
    pub(crate) watches: u32,
    pub(crate) processes: u32,
}

/// A watch that is asked for.
pub(crate) struct Order {
    pub(crate) target: v1::Target,
    pub(crate) selector: Selector,
    pub(crate) owner: String,
    pub(crate) follow: Follow,
    /// None: a standing watch.
    pub(crate) lease_ttl: Option<Duration>,
    /// Even if no process matches yet.
    pub(crate) wait: bool,
    /// The processes that match now.
    pub(crate) found: Vec<Found>,
}

/// Processes of a watch, and whether their children join it.
pub(crate) type Members = Vec<(ProcessId, bool)>;

pub(super) type Reply<T> = oneshot::Sender<Result<T, WatchError>>;

pub(super) enum Command {
    Watch {
        order: Order,
        reply: Reply<WatchId>,
    },
    /// Adds processes to a watch; answers how many are news.
    Join {
        id: WatchId,
        found: Vec<Found>,
        descend: bool,
        past: Past,
        reply: Reply<usize>,
    },
    /// The processes of a watch; none, if it has ended.
    Members {
        id: WatchId,
        reply: Reply<Members>,
    },
    Unwatch {
        selection: Selection,
        owner: String,
        reply: Reply<Vec<String>>,
    },
    Renew {
        watch_ids: Vec<String>,
        owner: String,
        reply: Reply<()>,
    },
    /// Holds the owner's leases among these watches. The first that does not exist
    /// is the error, unless they may be gone.
    Hold {
        watch_ids: Vec<String>,
        owner: String,
        may_be_gone: bool,
        reply: Reply<Vec<Hold>>,
    },
    List {
        reply: Reply<Vec<v1::Watch>>,
    },
    Describe {
        id: WatchId,
        reply: Reply<v1::Watch>,
    },
    Vitals {
        reply: Reply<Vitals>,
    },
}

/// Sends commands to the sampler.
#[derive(Clone)]
pub(crate) struct Commands {
    queue: mpsc::Sender<Command>,
}

impl Commands {
    pub(super) fn new(queue: mpsc::Sender<Command>) -> Self {
        Self { queue }
    }

    pub(crate) async fn watch(&self, order: Order) -> Result<WatchId, CommandError> {
        self.ask(|reply| Command::Watch { order, reply }).await
    }

    pub(crate) async fn join(
        &self,
        id: WatchId,
        found: Vec<Found>,
        descend: bool,
        past: Past,
    ) -> Result<usize, CommandError> {
        self.ask(|reply| Command::Join {
            id,
            found,
            descend,
            past,
            reply,
        })
        .await
    }

    pub(crate) async fn members(&self, id: WatchId) -> Result<Members, CommandError> {
        self.ask(|reply| Command::Members { id, reply }).await
    }

    pub(crate) async fn unwatch(
        &self,
        selection: Selection,
        owner: String,
    ) -> Result<Vec<String>, CommandError> {
        self.ask(|reply| Command::Unwatch {
            selection,
            owner,
            reply,
        })
        .await
    }

    pub(crate) async fn renew(
        &self,
        watch_ids: Vec<String>,
        owner: String,
    ) -> Result<(), CommandError> {
        self.ask(|reply| Command::Renew {
            watch_ids,
            owner,
            reply,
        })
        .await
    }

    pub(crate) async fn hold(
        &self,
        watch_ids: Vec<String>,
        owner: String,
        may_be_gone: bool,
    ) -> Result<Vec<Hold>, CommandError> {
        self.ask(|reply| Command::Hold {
            watch_ids,
            owner,
            may_be_gone,
            reply,
        })
        .await
    }

    pub(crate) async fn list(&self) -> Result<Vec<v1::Watch>, CommandError> {
        self.ask(|reply| Command::List { reply }).await
    }

    pub(crate) async fn describe(&self, id: WatchId) -> Result<v1::Watch, CommandError> {
        self.ask(|reply| Command::Describe { id, reply }).await
    }

    pub(crate) async fn vitals(&self) -> Result<Vitals, CommandError> {
        self.ask(|reply| Command::Vitals { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        // Either end goes away only when the sampler has stopped.
        self.queue
            .send(command(reply))
            .await
            .map_err(|_| CommandError::ShuttingDown)?;
        let answer = answer.await.map_err(|_| CommandError::ShuttingDown)?;
        Ok(answer?)
    }
}
