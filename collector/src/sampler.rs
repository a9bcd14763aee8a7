//! The task that owns the kernel, the watches and the schedule.
//!
//! Takes ticks, commands, exits of processes, leases that run out and the order
//! to stop, one at a time, so that nothing here needs a lock. Produces one message
//! per tick: read the counters, take differences, publish. Commands come through a
//! queue of [`MAX_COMMANDS`]; a caller that finds it full waits its turn.
#![forbid(unsafe_code)]

use std::{
    future::pending,
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use netio::v1;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    hub::Hub,
    keep::Store,
    kernel::{Attach, Changes},
    processes::Found,
    ticker::{Clock, Ticker},
    watches::{NewWatch, Past, Rule, Selection, WatchError, WatchId, Watches},
};

mod attachment;
mod commands;
mod hooks;
mod keeping;
mod pulse;
mod recent;
#[cfg(test)]
mod tests;
mod timed;

use attachment::Attachment;
use commands::{Command, Reply};
pub(crate) use commands::{CommandError, Commands, Order, Vitals};
use hooks::LOOK_EVERY;
pub(crate) use pulse::Pulse;
use recent::Recent;
use timed::timed;

/// Commands that wait for the sampler.
const MAX_COMMANDS: usize = 64;

/// How long a slot rests at least before another process has it. Many times what a
/// program in the kernel takes, and short, so that a few slots serve many watches
/// that come and go.
const REST: Duration = Duration::from_millis(100);

/// The rules that processes are looked for by, newest state only.
pub(crate) type Rules = Arc<Vec<Rule>>;

/// The kernel's word of changes, for the one who takes it out; empty, where the
/// kernel does not tell.
pub(crate) type Handover = Arc<Mutex<Option<Changes>>>;

/// See the module.
pub(crate) struct Sampler {
    watches: Watches,
    ticker: Ticker,
    clock: Arc<dyn Clock>,
    hub: Arc<Hub>,
    commands: mpsc::Receiver<Command>,
    rules: watch::Sender<Rules>,
    changes: watch::Sender<Handover>,
    attachment: Attachment,
    /// Watches that wait for the hooks; [`MAX_COMMANDS`] of them at most, and seldom
    /// more than have their turn in `enrolment`.
    waiting: Vec<(Order, Reply<WatchId>)>,
    pulse: watch::Sender<Pulse>,
    /// Whether the hooks counted when they were looked at last.
    can_count: bool,
    /// As of the last look.
    missed_events: v1::MissedEvents,
    next_look: Instant,
    instance: v1::CollectorInstance,
    sequence: u64,
    /// Where what is watched is written down; none, if it goes with the collector.
    store: Option<Store>,
    /// Whether the hooks count on after the end.
    is_kept: bool,
    /// Samples of an earlier tick, for their memory.
    used: Vec<v1::NetIoSample>,
    /// When the counters were read last; at first, when the sampler was made.
    last_reading: Instant,
    /// When slots were freed last.
    last_rest: Instant,
    /// How long ticks took.
    durations: Recent,
    /// How late they were.
    latenesses: Recent,
}

impl Sampler {
    /// `watches` may be of a collector before this one: then the sequence goes on, too.
    pub(crate) fn new(
        mut watches: Watches,
        clock: Arc<dyn Clock>,
        interval: Duration,
        hub: Arc<Hub>,
        instance: v1::CollectorInstance,
    ) -> (Self, Commands) {
        let (queue, commands) = mpsc::channel(MAX_COMMANDS);
        let missed_events = watches.figures().missed_events;
        let kernel = watches.kernel();
        let can_count = kernel.info().hook_mode != v1::HookMode::Unspecified;
        let pulse = Pulse {
            last_tick: clock.monotonic(),
            can_count,
        };
        let (sequence, last_reading) = keeping::last_tick(kernel, &*clock);
        let store = kernel.store();
        let mut sampler = Self {
            pulse: watch::Sender::new(pulse),
            can_count,
            missed_events,
            next_look: clock.monotonic() + LOOK_EVERY,
            store,
            is_kept: false,
            watches,
            ticker: Ticker::new(Arc::clone(&clock), interval),
            last_reading,
            last_rest: clock.monotonic(),
            clock,
            hub,
            commands,
            rules: watch::Sender::default(),
            changes: watch::Sender::default(),
            attachment: Attachment::lasting(),
            waiting: Vec::new(),
            instance,
            sequence,
            used: Vec::new(),
            durations: Recent::default(),
            latenesses: Recent::default(),
        };
        sampler.hand_over_changes();
        sampler.publish_rules();
        sampler.save();
        (sampler, Commands::new(queue))
    }

    /// Has the hooks attached only while something is watched: lets go of them when
    /// nothing was for that long, and gets them again with `attach` before the next
    /// watch is made.
    pub(crate) fn attached_on_demand(mut self, attach: Attach, after: Duration) -> Self {
        self.attachment = Attachment::on_demand(attach, after);
        self
    }

    /// The kernel's word of changes; another one after hooks were attached again.
    pub(crate) fn changes(&self) -> watch::Receiver<Handover> {
        self.changes.subscribe()
    }

    /// The rules, as they change.
    pub(crate) fn rules(&self) -> watch::Receiver<Rules> {
        self.rules.subscribe()
    }

    /// How it fares, as of the last tick.
    pub(crate) fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// Runs until it is told to stop, or nobody is left to command it. What it
    /// owns goes with it, unless it is kept: the allow-list and the hooks.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let expiry = self.watches.next_expiry();
            let rested = self.watches.has_resting_slots();
            let rested = rested.then_some(self.last_rest + REST);
            let now = self.clock.monotonic();
            let detach = self.attachment.deadline(self.watches.is_empty(), now);
            tokio::select! {
                // In this order, so that a flood of commands delays no tick, and
                // an exit is known before its pid is watched anew.
                biased;
                () = stop.cancelled() => break,
                late = self.ticker.tick() => self.tick(late),
                process = self.watches.next_exit() => self.watches.exited(process),
                () = at(expiry) => self.expire(),
                () = at(rested) => self.rest(),
                kernel = self.attachment.attached() => self.attached(kernel),
                () = at(detach) => self.detach(),
                () = sleep_until(self.next_look) => self.look(),
                command = self.commands.recv(), if self.waiting.len() < MAX_COMMANDS => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
            }
        }
        self.keep_or_let_go();
        self.attachment.end().await;
    }

    fn tick(&mut self, late: Duration) {
        let (time, reading) = timed(&*self.clock, || self.watches.read());
        self.ticker.was_read(reading);
        let samples = self
            .watches
            .diff(self.hub.wants_processes(), mem::take(&mut self.used));

        self.sequence += 1;
        self.mark_tick();
        let interval = reading - self.last_reading;
        self.last_reading = reading;
        self.used = self.hub.publish(v1::SubscribeResponse {
            sequence: self.sequence,
            time: Some(time.into()),
            // Never out of range: that takes centuries between two ticks.
            interval: interval.try_into().ok(),
            skipped_ticks: 0,
            instance: Some(self.instance.clone()),
            samples,
            map_full: Some(self.watches.map_full()),
            missed_events: Some(self.missed_events),
            ticks: 1,
        });
        self.watches.retire(reading);
        self.save_again();
        self.durations.add(self.clock.monotonic() - reading);
        self.latenesses.add(late);
        self.pulse.send_replace(Pulse {
            last_tick: reading,
            can_count: self.can_count,
        });
    }

    fn rest(&mut self) {
        self.last_rest = self.clock.monotonic();
        // Before slots are free (see `Watches::changed_state`).
        self.save();
        self.watches.rest();
        // The next tick frees slots, too, of families that have ended by this.
        self.save();
    }

    fn expire(&mut self) {
        let ids = self.watches.expire(self.clock.monotonic());
        if !ids.is_empty() {
            info!(ids = text(&ids), "leases ran out");
            self.publish_rules();
        }
        self.save();
    }

    /// A caller that has gone away meanwhile needs no answer: most replies may fail.
    fn handle(&mut self, command: Command) {
        let now = self.clock.monotonic();
        match command {
            Command::Watch { order, reply } if self.attachment.is_attached() => {
                self.make(order, reply);
            }
            Command::Watch { order, reply } => self.wait_for_hooks(order, reply),
            Command::Join {
                id,
                found,
                descend,
                past,
                reply,
            } => {
                let joined = self.join(id, found, descend, past);
                self.save();
                let _ = reply.send(joined);
            }
            Command::Members { id, reply } => {
                let _ = reply.send(Ok(self.watches.members(id)));
            }
            Command::Unwatch {
                selection,
                owner,
                reply,
            } => {
                let ended = self.unwatch(&selection, &owner);
                self.save();
                let _ = reply.send(ended);
            }
            Command::Renew {
                watch_ids,
                owner,
                reply,
            } => {
                let renewed = self.watches.renew(&watch_ids, &owner, now);
                self.save();
                let _ = reply.send(renewed);
            }
            Command::Hold {
                watch_ids,
                owner,
                may_be_gone,
                reply,
            } => {
                let held = self.watches.hold(&watch_ids, &owner, may_be_gone, now);
                self.save();
                let _ = reply.send(held);
            }
            Command::List { reply } => {
                let _ = reply.send(Ok(self.watches.list(now)));
            }
            Command::Describe { id, reply } => {
                let told = self.watches.describe(id, now);
                let _ = reply.send(told.ok_or_else(|| WatchError::NotFound {
                    watch_id: id.to_string(),
                }));
            }
            Command::Vitals { reply } => {
                let (watches, processes) = self.watches.counts();
                let _ = reply.send(Ok(Vitals {
                    hooks: self.hooks_now(),
                    probe_state: self.probe_state(),
                    figures: self.watches.figures(),
                    missed_ticks: self.ticker.missed(),
                    tick_duration: self.durations.percentiles(),
                    tick_lateness: self.latenesses.percentiles(),
                    watches,
                    processes,
                }));
            }
        }
    }

    fn make(&mut self, order: Order, reply: Reply<WatchId>) {
        // It may have waited for longer than its caller.
        if reply.is_closed() {
            return;
        }
        let made = self.watch(order);
        self.save();
        // A watch that its owner never heard of would never be ended.
        if let Err(Ok(id)) = reply.send(made) {
            self.watches.end(id);
            self.publish_rules();
        }
    }

    /// Makes a watch of the processes found; all of them or none.
    fn watch(&mut self, order: Order) -> Result<WatchId, WatchError> {
        let now = self.clock.monotonic();
        let Order {
            target,
            selector,
            owner,
            follow,
            lease_ttl,
            wait,
            found,
        } = order;
        let what = selector.to_string();
        let made = self.watches.begin(
            NewWatch {
                target,
                selector,
                follow,
                owner: owner.clone(),
                lease_ttl,
                create_time: self.clock.wall().into(),
            },
            now,
        );
        let made = made.and_then(|id| {
            self.join_all(id, found, wait)
                .map(|()| id)
                .inspect_err(|_| self.watches.end(id))
        });
        match &made {
            Ok(id) => {
                info!(%id, %what, owner, "watch made");
                self.publish_rules();
            }
            Err(error) => warn!(%what, owner, %error, "watch refused"),
        }
        made
    }

    /// Adds the processes that were found for a new watch. Of several, some may have
    /// exited meanwhile.
    fn join_all(&mut self, id: WatchId, found: Vec<Found>, wait: bool) -> Result<(), WatchError> {
        let mut exited = None;
        let mut joined = 0;
        for found in found {
            match self.watches.join(id, found, false, Past::Refuse) {
                Ok(_) => joined += 1,
                Err(error @ WatchError::Exited { .. }) => exited = Some(error),
                Err(error) => return Err(error),
            }
        }
        match exited {
            Some(exited) if joined == 0 && !wait => Err(exited),
            _ => Ok(()),
        }
    }

    /// Adds processes to a watch; how many of them are news. One that has exited
    /// meanwhile is none.
    fn join(
        &mut self,
        id: WatchId,
        found: Vec<Found>,
        descend: bool,
        past: Past,
    ) -> Result<usize, WatchError> {
        let mut joined = 0;
        for found in found {
            let pid = found.process.pid;
            match self.watches.join(id, found, descend, past) {
                Ok(true) => {
                    joined += 1;
                    debug!(%id, pid, "a process joins");
                }
                Ok(false) | Err(WatchError::Exited { .. }) => {}
                Err(error)
                    if past == Past::Share && !matches!(error, WatchError::NotFound { .. }) =>
                {
                    warn!(%id, pid, %error, "a process that matches is not counted");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(joined)
    }

    fn unwatch(&mut self, selection: &Selection, owner: &str) -> Result<Vec<String>, WatchError> {
        let ended = self.watches.remove(selection, owner);
        match &ended {
            Ok(ids) => {
                info!(ids = text(ids), owner, "watches ended");
                self.publish_rules();
            }
            Err(error) => debug!(owner, %error, "unwatch refused"),
        }
        Ok(ended?.iter().map(ToString::to_string).collect())
    }

    /// Tells the rules to whoever looks for processes, if they have changed.
    fn publish_rules(&mut self) {
        if let Some(rules) = self.watches.changed_rules() {
            self.watches.kernel().wish_changes(!rules.is_empty());
            self.rules.send_replace(Arc::new(rules));
        }
    }
}

fn text(ids: &[WatchId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
