//! A tick as the hub hands it out: everything that there is, and what was made of
//! it for each filter.
#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock},
};

use netio::v1;

use super::{
    filter::{Filter, is_news},
    lock,
    prepared::Prepared,
};

/// How many last samples are kept for subscribers that skip ticks; of more
/// exits within the ticks that it skipped, a subscriber misses the oldest.
pub(super) const MAX_LAST_SAMPLES: usize = 1024;

/// See the module.
pub(crate) struct Tick {
    /// With the samples of every watch; `skipped_ticks` is the subscriber's own
    /// matter and 0 here.
    pub(super) message: v1::SubscribeResponse,
    /// The last samples of watches that have ended, this tick's included, each with
    /// the sequence of its tick; oldest first.
    last_samples: Arc<VecDeque<(u64, v1::NetIoSample)>>,
    /// For each sample, whether it is news since the tick before.
    news: Vec<bool>,
    /// For who wants everything but parts, which is the most usual.
    everything: OnceLock<Prepared>,
    prepared: Mutex<PreparedFor>,
}

/// By filter (its address), and whether without regard to news. Each keeps its
/// filter, so that an address stays one filter's.
type PreparedFor = HashMap<(usize, bool), (Arc<Filter>, Prepared)>;

impl Tick {
    pub(super) fn after(previous: Option<&Self>, message: v1::SubscribeResponse) -> Self {
        let mut last_samples = previous
            .map(|tick| Arc::clone(&tick.last_samples))
            .unwrap_or_default();
        let exited = |sample: &&v1::NetIoSample| sample.state() == v1::ProcessState::Exited;
        for sample in message.samples.iter().filter(exited) {
            let kept = Arc::make_mut(&mut last_samples);
            if kept.len() == MAX_LAST_SAMPLES {
                kept.pop_front();
            }
            kept.push_back((message.sequence, sample.clone()));
        }
        // Both are in order of watch id.
        let earlier = previous.iter().flat_map(|tick| &tick.message.samples);
        let mut earlier = earlier.peekable();
        let news = message.samples.iter().map(|sample| {
            let id = age(sample);
            while earlier.next_if(|before| age(before) < id).is_some() {}
            let before = earlier.next_if(|before| age(before) == id);
            is_news(sample, before.map(|before| before.state))
        });
        Self {
            news: news.collect(),
            everything: OnceLock::new(),
            message,
            last_samples,
            prepared: Mutex::default(),
        }
    }

    /// What a filter wants of it, encoded the first time that it is asked for.
    /// `all`: also what is no news to it.
    pub(super) fn prepared(&self, filter: &Arc<Filter>, all: bool) -> Prepared {
        let all = all || !filter.only_changed;
        let encode = || {
            let samples = self.message.samples.iter().zip(&self.news);
            let wanted = samples.filter(|(_, is_news)| all || **is_news);
            filter.encode(&self.message, wanted.map(|(sample, _)| sample))
        };
        if filter.is_everything() {
            return self.everything.get_or_init(encode).clone();
        }
        let key = (Arc::as_ptr(filter).addr(), all);
        let mut prepared = lock(&self.prepared);
        let (_, prepared) = prepared
            .entry(key)
            .or_insert_with(|| (Arc::clone(filter), encode()));
        prepared.clone()
    }

    /// The last samples of watches that ended after the tick with sequence
    /// `after`, and before this message's own ticks.
    pub(super) fn late(&self, filter: &Filter, after: u64) -> Vec<&v1::NetIoSample> {
        let skipped = after + 1..=self.before();
        self.last_samples
            .iter()
            .filter(|(sequence, sample)| {
                skipped.contains(sequence) && filter.wants(&sample.watch_id)
            })
            .map(|(_, sample)| sample)
            .collect()
    }

    /// The sequence of the tick before those that this message is about.
    pub(super) fn before(&self) -> u64 {
        let ticks = u64::from(self.message.ticks.max(1));
        self.message.sequence.saturating_sub(ticks)
    }
}

/// What puts samples in order of watch id: "w-2" is before "w-10".
pub(super) fn age(sample: &v1::NetIoSample) -> (usize, &str) {
    (sample.watch_id.len(), &sample.watch_id)
}
