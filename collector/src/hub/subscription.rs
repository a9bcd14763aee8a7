//! The messages for one subscriber.
//!
//! First, if it asked for them, ticks of the history; then each tick as it comes,
//! with at most one waiting. Dropping it ends the subscription.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Poll, ready},
};

use netio::v1;
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;

use super::{
    Traffic,
    filter::{Filter, is_news},
    history::History,
    lock,
    newest::Receiver,
    prepared::Prepared,
    tick::Tick,
};

/// Where a subscription takes ticks of the past from.
pub(super) struct Replay {
    pub(super) history: Arc<Mutex<History>>,
    /// Whether the next tick is taken from there; if not, it is awaited.
    pub(super) is_behind: bool,
    /// The watches' states, as far as they were told.
    pub(super) states: HashMap<String, i32>,
}

/// See the module.
pub(crate) struct Subscription {
    pub(super) ticks: Receiver<Tick>,
    pub(super) filter: Arc<Filter>,
    pub(super) is_first: bool,
    /// The tick delivered last; at first, the newest when this began.
    pub(super) last_sequence: u64,
    pub(super) replay: Option<Replay>,
    /// What keeps parts of processes coming.
    pub(super) _per_process: Option<Arc<()>>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Stream for Subscription {
    type Item = Prepared;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Prepared>> {
        loop {
            if let Some(message) = self.replayed() {
                return Poll::Ready(Some(self.sent(message)));
            }
            let Some(tick) = ready!(self.ticks.poll_next(cx)) else {
                return Poll::Ready(None);
            };
            // What was replayed already comes no second time.
            if tick.message.sequence <= self.last_sequence {
                continue;
            }
            if self.falls_behind(&tick) {
                continue;
            }
            let message = self.delivered(&tick);
            return Poll::Ready(Some(self.sent(message)));
        }
    }
}

impl Subscription {
    /// Whether the hub is closed, so that at most one message is to come.
    pub(crate) fn is_closed(&self) -> bool {
        self.ticks.is_closed()
    }

    /// The next tick of the history, if the subscriber is behind.
    fn replayed(&mut self) -> Option<Prepared> {
        let replay = self.replay.as_mut().filter(|replay| replay.is_behind)?;
        let only_changed = self.filter.only_changed;
        let (sequence, message) = {
            let history = lock(&replay.history);
            let Some((sequence, message)) = history.after(self.last_sequence) else {
                replay.is_behind = false;
                return None;
            };
            self.last_sequence = sequence;
            self.is_first = false;
            if self.filter.is_everything() {
                return Some(message);
            }
            if let Some(encoded) = history.encoded(sequence, &self.filter) {
                return Some(encoded);
            }
            (sequence, message)
        };
        // Our own encoding, so it can be read.
        let message = v1::SubscribeResponse::decode(message.0).ok()?;
        if only_changed {
            // What is news to one depends on what it was told before.
            let states = &mut replay.states;
            let samples = message.samples.iter().filter(|sample| {
                let before = states.insert(sample.watch_id.clone(), sample.state);
                is_news(sample, before)
            });
            return Some(self.filter.encode(&message, samples));
        }
        let encoded = self.filter.encode(&message, message.samples.iter());
        let filter = Arc::clone(&self.filter);
        lock(&replay.history).keep(sequence, filter, encoded.clone());
        Some(encoded)
    }

    /// Whether ticks before this one are missing and can be had from the history.
    fn falls_behind(&mut self, tick: &Tick) -> bool {
        let last = self.last_sequence;
        let Some(replay) = &mut self.replay else {
            return false;
        };
        replay.is_behind = tick.before() > last && lock(&replay.history).after(last).is_some();
        replay.is_behind
    }

    fn delivered(&mut self, tick: &Tick) -> Prepared {
        let after = self.last_sequence;
        self.last_sequence = tick.message.sequence;
        if self.is_first {
            self.is_first = false;
            return tick.prepared(&self.filter, true);
        }
        let skipped = tick.before().saturating_sub(after);
        // News of the skipped ticks is news.
        let message = tick.prepared(&self.filter, skipped > 0);
        if skipped == 0 {
            return message;
        }
        self.traffic.skipped.fetch_add(skipped, Ordering::Relaxed);
        message.with(skipped, &tick.late(&self.filter, after))
    }

    fn sent(&self, message: Prepared) -> Prepared {
        let bytes = message.0.len() as u64;
        self.traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.traffic.messages.fetch_add(1, Ordering::Relaxed);
        message
    }
}
