//! Hands each tick to every subscriber.
//!
//! Takes the sampler's ticks, produces one [`Subscription`] per subscriber: a
//! stream of encoded messages. Each distinct wish ([`Filter`]) is encoded once a
//! tick, however many subscribers have it. Each subscriber holds one place for the
//! newest tick and no queue, so a slow one skips ticks, is told how many, delays
//! nobody and costs no memory. Totals make up for a skipped tick, except for a
//! watch whose last sample was in it: so the last samples of recent ends travel on
//! with each tick, and a subscriber that skipped them gets them late. Ticks are
//! kept for a while ([`History`]) for those who come later. Dropping a subscription
//! ends it. The hub knows nothing of the kernel.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use netio::v1;
use tokio::sync::Semaphore;

mod filter;
mod history;
mod newest;
mod prepared;
mod slower;
mod subscription;
mod sync;
#[cfg(test)]
mod tests;
mod tick;

pub(crate) use filter::Filter;
use history::History;
use newest::{Newest, Receiver};
pub(crate) use prepared::Prepared;
use slower::Slower;
use subscription::Replay;
pub(crate) use subscription::Subscription;
use sync::lock;
use tick::Tick;

/// Intervals other than the collector's own that are served at a time.
const MAX_INTERVALS: usize = 16;
/// The longest interval between messages.
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What the hub is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubOptions {
    pub(crate) max_subscribers: u32,
    /// The collector's own interval.
    pub(crate) interval: Duration,
    pub(crate) max_history: Duration,
    pub(crate) max_history_bytes: u64,
    /// The sequence of the last tick of a collector before this one, which this one
    /// goes on from; 0: there is none.
    pub(crate) last_sequence: u64,
}

/// What a subscriber wants.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    /// The time between messages; none: each tick.
    pub(crate) interval: Option<Duration>,
    pub(crate) since: Option<Since>,
    /// Whose it is: those with the same are woken one after the other.
    pub(crate) group: usize,
}

/// From where in the past on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Since {
    /// After the tick with this sequence.
    After(u64),
    Time(SystemTime),
}

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscribeError {
    #[error(
        "{max_subscribers} streams are open, which is the collector's limit: close one that is not needed and try again"
    )]
    TooManySubscribers { max_subscribers: u32 },
    #[error(
        "messages every {wanted:?} are not offered: choose a whole multiple of the collector's interval of {own:?}, {MAX_INTERVAL:?} at most"
    )]
    Interval { wanted: Duration, own: Duration },
    #[error(
        "{MAX_INTERVALS} other intervals are in use, which is the limit: choose one of them, or none"
    )]
    TooManyIntervals,
    #[error(
        "the ticks after {after} are not kept any more: the oldest that is kept is {oldest}; begin with that"
    )]
    Gone { after: u64, oldest: u64 },
    #[error("tick {after} is yet to come: name one that was received")]
    Future { after: u64 },
}

/// What went out, over all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    bytes: AtomicU64,
    messages: AtomicU64,
    skipped: AtomicU64,
}

/// The subscribers, up to a limit.
pub(crate) struct Hub {
    options: HubOptions,
    newest: Newest<Tick>,
    slower: Mutex<BTreeMap<Duration, Slower>>,
    /// One of each that is in use.
    filters: Mutex<HashSet<Arc<Filter>>>,
    /// What the history is encoded by: everything but parts.
    everything: Arc<Filter>,
    history: Arc<Mutex<History>>,
    places: Arc<Semaphore>,
    /// Cloned into every subscription that wants each process's part.
    per_process: Arc<()>,
    traffic: Arc<Traffic>,
}

impl Hub {
    pub(crate) fn new(options: HubOptions) -> Self {
        let max_bytes = usize::try_from(options.max_history_bytes).unwrap_or(usize::MAX);
        let history = History::new(options.max_history, max_bytes);
        let everything = Arc::<Filter>::default();
        Self {
            newest: Newest::new(),
            slower: Mutex::default(),
            filters: Mutex::new(HashSet::from([Arc::clone(&everything)])),
            everything,
            history: Arc::new(Mutex::new(history)),
            places: Arc::new(Semaphore::new(options.max_subscribers as usize)),
            per_process: Arc::default(),
            traffic: Arc::default(),
            options,
        }
    }

    /// Whether anybody wants each process's part in the samples.
    pub(crate) fn wants_processes(&self) -> bool {
        Arc::strong_count(&self.per_process) > 1
    }

    /// Gives every subscriber this tick, in place of one not yet read. Its samples
    /// are in order of watch id. Gives back the samples of the tick before, for
    /// their memory; none, if somebody is about to read them.
    pub(crate) fn publish(&self, message: v1::SubscribeResponse) -> Vec<v1::NetIoSample> {
        let previous = self.newest.get();
        let tick = Arc::new(Tick::after(previous.as_deref(), message));
        let message = &tick.message;
        let time = message
            .time
            .and_then(|time| SystemTime::try_from(time).ok());
        lock(&self.history).push(
            message.sequence,
            time.unwrap_or(SystemTime::UNIX_EPOCH),
            tick.prepared(&self.everything, true),
        );
        self.newest.replace(Arc::clone(&tick));
        let mut slower = lock(&self.slower);
        slower.retain(|_, slower| slower.newest.subscribers() > 0);
        for slower in slower.values_mut() {
            slower.add(&tick.message);
        }
        let unused = previous.and_then(Arc::into_inner);
        unused.map_or_else(Vec::new, |tick| tick.message.samples)
    }

    /// Ends every subscription, also those that are yet to come.
    pub(crate) fn close(&self) {
        self.newest.close();
        for slower in lock(&self.slower).values() {
            slower.newest.close();
        }
    }

    /// Begins with the next tick after this call, or with those of the past that
    /// are wanted.
    pub(crate) fn subscribe(&self, wanted: Wanted) -> Result<Subscription, SubscribeError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            SubscribeError::TooManySubscribers {
                max_subscribers: self.options.max_subscribers,
            }
        })?;
        let receiver = self.receiver(wanted.interval, wanted.group)?;
        // Of the base ticks, also for longer intervals: their messages tell how
        // many they hold.
        let newest = self.sequence();
        let (last_sequence, replay) = match wanted.since {
            None => (newest, None),
            Some(since) => (self.begin(since, newest)?, Some(self.replay())),
        };
        let per_process = wanted.filter.per_process;
        Ok(Subscription {
            ticks: receiver,
            filter: self.shared(wanted.filter),
            is_first: true,
            last_sequence,
            replay,
            _per_process: per_process.then(|| Arc::clone(&self.per_process)),
            traffic: Arc::clone(&self.traffic),
            _place: place,
        })
    }

    fn receiver(
        &self,
        interval: Option<Duration>,
        group: usize,
    ) -> Result<Receiver<Tick>, SubscribeError> {
        let own = self.options.interval;
        let Some(wanted) = interval.filter(|wanted| *wanted != own) else {
            return Ok(self.newest.subscribe(group));
        };
        let is_multiple = wanted > own && wanted.as_nanos().is_multiple_of(own.as_nanos().max(1));
        if !is_multiple || wanted > MAX_INTERVAL {
            return Err(SubscribeError::Interval { wanted, own });
        }
        let mut slower = lock(&self.slower);
        if !slower.contains_key(&wanted) && slower.len() >= MAX_INTERVALS {
            return Err(SubscribeError::TooManyIntervals);
        }
        let slower = slower.entry(wanted).or_insert_with(|| Slower::new(wanted));
        if self.newest.is_closed() {
            slower.newest.close();
        }
        Ok(slower.newest.subscribe(group))
    }

    /// Of the newest tick; 0 before the first.
    fn sequence(&self) -> u64 {
        let newest = self.newest.get();
        newest.map_or(self.options.last_sequence, |tick| tick.message.sequence)
    }

    /// The sequence before the first tick that is wanted.
    fn begin(&self, since: Since, newest: u64) -> Result<u64, SubscribeError> {
        let history = lock(&self.history);
        let oldest = history.oldest().unwrap_or(newest + 1);
        match since {
            Since::Time(time) => Ok(history.before_time(time).unwrap_or(newest)),
            Since::After(after) if after > newest => Err(SubscribeError::Future { after }),
            Since::After(after) if after + 1 < oldest => {
                Err(SubscribeError::Gone { after, oldest })
            }
            Since::After(after) => Ok(after),
        }
    }

    fn replay(&self) -> Replay {
        Replay {
            history: Arc::clone(&self.history),
            is_behind: true,
            states: HashMap::new(),
        }
    }

    /// The one filter of all that want the same.
    fn shared(&self, filter: Filter) -> Arc<Filter> {
        let mut filters = lock(&self.filters);
        if let Some(known) = filters.get(&filter) {
            return Arc::clone(known);
        }
        // Whoever used the others may have gone; the newest tick still holds some.
        filters.retain(|filter| Arc::strong_count(filter) > 1);
        let new = Arc::new(filter);
        filters.insert(Arc::clone(&new));
        new
    }

    /// The sequence of the oldest tick that is kept; of the next, if none is.
    pub(crate) fn oldest(&self) -> u64 {
        let newest = self.sequence();
        lock(&self.history).oldest().unwrap_or(newest + 1)
    }

    /// Subscriptions that are open now.
    pub(crate) fn subscribers(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX);
        self.options.max_subscribers.saturating_sub(free)
    }

    /// What the subscriptions and the history cost so far, as the API has it.
    pub(crate) fn cost(&self) -> v1::OwnCost {
        let (history_ticks, history_bytes) = lock(&self.history).size();
        v1::OwnCost {
            sent_bytes: self.traffic.bytes.load(Ordering::Relaxed),
            sent_messages: self.traffic.messages.load(Ordering::Relaxed),
            skipped_ticks: self.traffic.skipped.load(Ordering::Relaxed),
            history_ticks,
            history_bytes,
            ..v1::OwnCost::default()
        }
    }
}
