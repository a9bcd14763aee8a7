//! The task that owns the kernel, the watches and the schedule.
//!
//! Takes ticks, commands, exits of processes and the order to stop, one at a
//! time, so that nothing here needs a lock. Produces one message per tick: read
//! the counters, take differences, publish. Commands come through a queue of
//! [`MAX_COMMANDS`]; a caller that finds it full waits its turn.
#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use netio::v1;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    hub::Hub,
    process::Found,
    ticker::{Clock, Ticker},
    watches::{NewWatch, Selection, WatchError, Watches},
};

#[cfg(test)]
mod tests;

/// Commands that wait for the sampler.
const MAX_COMMANDS: usize = 64;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Refused(#[from] WatchError),
    #[error("the collector is shutting down: try again when it runs again")]
    ShuttingDown,
}

/// What only the sampler knows of the collector's health.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    pub(crate) missed_events: v1::MissedEvents,
    pub(crate) missed_ticks: u64,
}

type Reply<T> = oneshot::Sender<Result<T, WatchError>>;

enum Command {
    Watch {
        target: v1::Target,
        found: Found,
        owner: String,
        reply: Reply<v1::Watch>,
    },
    Unwatch {
        selection: Selection,
        owner: String,
        reply: Reply<Vec<String>>,
    },
    List {
        reply: Reply<Vec<v1::Watch>>,
    },
    /// Do these watches exist? The first that does not is the error.
    Find {
        watch_ids: Vec<String>,
        reply: Reply<()>,
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
    pub(crate) async fn watch(
        &self,
        target: v1::Target,
        found: Found,
        owner: String,
    ) -> Result<v1::Watch, CommandError> {
        self.ask(|reply| Command::Watch {
            target,
            found,
            owner,
            reply,
        })
        .await
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

    pub(crate) async fn list(&self) -> Result<Vec<v1::Watch>, CommandError> {
        self.ask(|reply| Command::List { reply }).await
    }

    pub(crate) async fn find(&self, watch_ids: Vec<String>) -> Result<(), CommandError> {
        self.ask(|reply| Command::Find { watch_ids, reply }).await
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

/// See the module.
pub(crate) struct Sampler {
    watches: Watches,
    ticker: Ticker,
    clock: Arc<dyn Clock>,
    hub: Arc<Hub>,
    commands: mpsc::Receiver<Command>,
    instance: v1::CollectorInstance,
    sequence: u64,
    /// When the counters were read last; at first, when the sampler was made.
    last_reading: Instant,
}

impl Sampler {
    pub(crate) fn new(
        watches: Watches,
        clock: Arc<dyn Clock>,
        interval: Duration,
        hub: Arc<Hub>,
        instance: v1::CollectorInstance,
    ) -> (Self, Commands) {
        let (queue, commands) = mpsc::channel(MAX_COMMANDS);
        let sampler = Self {
            watches,
            ticker: Ticker::new(Arc::clone(&clock), interval),
            last_reading: clock.monotonic(),
            clock,
            hub,
            commands,
            instance,
            sequence: 0,
        };
        (sampler, Commands { queue })
    }

    /// Runs until it is told to stop, or nobody is left to command it. What it
    /// owns goes with it: the allow-list and the hooks.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                // In this order, so that a flood of commands delays no tick, and
                // an exit is known before its pid is watched anew.
                biased;
                () = stop.cancelled() => break,
                () = self.ticker.tick() => self.tick(),
                process = self.watches.next_exit() => self.watches.exited(process),
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
            }
        }
    }

    fn tick(&mut self) {
        let time = self.clock.wall();
        let reading = self.clock.monotonic();
        self.watches.read();
        let samples = self.watches.diff();

        self.sequence += 1;
        let interval = reading - self.last_reading;
        self.last_reading = reading;
        self.hub.publish(v1::SubscribeResponse {
            sequence: self.sequence,
            time: Some(time.into()),
            // Never out of range: that takes centuries between two ticks.
            interval: interval.try_into().ok(),
            skipped_ticks: 0,
            instance: Some(self.instance.clone()),
            samples,
        });
        self.watches.retire();
    }

    /// A caller that has gone away meanwhile needs no answer: most replies may fail.
    fn handle(&mut self, command: Command) {
        match command {
            Command::Watch {
                target,
                found,
                owner,
                reply,
            } => {
                // A watch that its owner never heard of would never be ended.
                if let Err(Ok(watch)) = reply.send(self.watch(target, found, owner)) {
                    let _ = self.unwatch(&Selection::Id(watch.watch_id), &watch.owner);
                }
            }
            Command::Unwatch {
                selection,
                owner,
                reply,
            } => {
                let _ = reply.send(self.unwatch(&selection, &owner));
            }
            Command::List { reply } => {
                let _ = reply.send(Ok(self.watches.list()));
            }
            Command::Find { watch_ids, reply } => {
                let missing = watch_ids.iter().map(|id| self.watches.find(id));
                let found = missing.collect::<Result<Vec<_>, _>>().map(drop);
                let _ = reply.send(found);
            }
            Command::Vitals { reply } => {
                let _ = reply.send(Ok(Vitals {
                    missed_events: self.watches.kernel().missed_events(),
                    missed_ticks: self.ticker.missed(),
                }));
            }
        }
    }

    fn watch(
        &mut self,
        target: v1::Target,
        found: Found,
        owner: String,
    ) -> Result<v1::Watch, WatchError> {
        let pid = found.process.pid;
        let name = found.process.name.clone();
        let made = self.watches.add(NewWatch {
            target,
            found,
            owner: owner.clone(),
            create_time: self.clock.wall().into(),
        });
        match &made {
            Ok(watch) => info!(watch_id = watch.watch_id, pid, name, owner, "watch made"),
            Err(error) => warn!(pid, name, owner, %error, "watch refused"),
        }
        made
    }

    fn unwatch(&mut self, selection: &Selection, owner: &str) -> Result<Vec<String>, WatchError> {
        let ended = self.watches.remove(selection, owner);
        match &ended {
            Ok(ids) => info!(?ids, owner, "watches ended"),
            Err(error) => debug!(owner, %error, "unwatch refused"),
        }
        Ok(ended?.iter().map(ToString::to_string).collect())
    }
}
