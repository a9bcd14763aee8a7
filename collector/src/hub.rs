//! Hands each tick to every subscriber.
//!
//! Takes the sampler's ticks, produces one [`Subscription`] per subscriber: a
//! stream of ticks. Each subscriber holds one place for the newest tick and no
//! queue, so a slow one skips ticks, is told how many, delays nobody and costs
//! no memory. Totals make up for a skipped tick, except for a process whose last
//! sample was in it: so the last samples of recent exits travel on with each
//! tick, and a subscriber that skipped them gets them late. Dropping a
//! subscription ends it. The hub knows nothing of the kernel.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use netio::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::{Stream, wrappers::WatchStream};

/// How many last samples are kept for subscribers that skip ticks; of more
/// exits within the ticks that it skipped, a subscriber misses the oldest.
const MAX_LAST_SAMPLES: usize = 1024;

/// What the hub hands out.
pub(crate) struct Tick {
    /// The message with the samples of every watch, as a subscriber to all of
    /// them gets it; `skipped_ticks` is the subscriber's own matter and 0 here.
    pub(crate) message: v1::SubscribeResponse,
    /// The samples of exited processes, this tick's included, each with the
    /// sequence of its tick; oldest first.
    last_samples: Arc<VecDeque<(u64, v1::NetIoSample)>>,
}

impl Tick {
    fn after(previous: Option<&Self>, message: v1::SubscribeResponse) -> Self {
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
        Self {
            message,
            last_samples,
        }
    }
}

/// The subscribers, up to a limit.
pub(crate) struct Hub {
    newest: watch::Sender<Option<Arc<Tick>>>,
    places: Arc<Semaphore>,
    max_subscribers: u32,
    /// Cloned into every subscription that wants each process's part.
    per_process: Arc<()>,
}

/// There is no place for another subscriber.
#[derive(Debug, thiserror::Error)]
#[error(
    "{max_subscribers} streams are open, which is the collector's limit: close one that is not needed and try again"
)]
pub(crate) struct TooManySubscribers {
    pub(crate) max_subscribers: u32,
}

impl Hub {
    pub(crate) fn new(max_subscribers: u32) -> Self {
        Self {
            newest: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(max_subscribers as usize)),
            max_subscribers,
            per_process: Arc::default(),
        }
    }

    /// Whether anybody wants each process's part in the samples.
    pub(crate) fn wants_processes(&self) -> bool {
        Arc::strong_count(&self.per_process) > 1
    }

    /// Gives every subscriber this tick, in place of one not yet read.
    pub(crate) fn publish(&self, message: v1::SubscribeResponse) {
        self.newest.send_modify(|newest| {
            *newest = Some(Arc::new(Tick::after(newest.as_deref(), message)));
        });
    }

    /// Begins with the next tick after this call. `per_process`: with each
    /// process's part in the samples.
    pub(crate) fn subscribe(&self, per_process: bool) -> Result<Subscription, TooManySubscribers> {
        let place =
            Arc::clone(&self.places)
                .try_acquire_owned()
                .map_err(|_| TooManySubscribers {
                    max_subscribers: self.max_subscribers,
                })?;
        let receiver = self.newest.subscribe();
        let begun_after = receiver
            .borrow()
            .as_ref()
            .map_or(0, |tick| tick.message.sequence);
        Ok(Subscription {
            ticks: WatchStream::from_changes(receiver),
            first: true,
            last_sequence: begun_after,
            per_process: per_process.then(|| Arc::clone(&self.per_process)),
            _place: place,
        })
    }

    /// Subscriptions that are open now.
    pub(crate) fn subscribers(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX);
        self.max_subscribers.saturating_sub(free)
    }
}

/// The ticks for one subscriber.
pub(crate) struct Subscription {
    ticks: WatchStream<Option<Arc<Tick>>>,
    first: bool,
    /// The tick delivered last; at first, the newest when this began.
    last_sequence: u64,
    per_process: Option<Arc<()>>,
    _place: OwnedSemaphorePermit,
}

impl Subscription {
    /// Whether it wants each process's part.
    pub(crate) fn per_process(&self) -> bool {
        self.per_process.is_some()
    }
}

/// A tick, and what this subscriber was too slow for since the last one.
pub(crate) struct Delivery {
    pub(crate) tick: Arc<Tick>,
    /// How many ticks; 0 in the first delivery.
    pub(crate) skipped_ticks: u64,
    /// The ticks after this one and before the delivered one were skipped.
    after: u64,
}

impl Delivery {
    /// The samples of processes that exited in the skipped ticks.
    pub(crate) fn skipped_last_samples(&self) -> impl Iterator<Item = &v1::NetIoSample> {
        let skipped = self.after + 1..self.tick.message.sequence;
        self.tick
            .last_samples
            .iter()
            .filter(move |(sequence, _)| skipped.contains(sequence))
            .map(|(_, sample)| sample)
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // The place is empty only before the first tick, and that is no change.
        let newest = ready!(Pin::new(&mut self.ticks).poll_next(cx));
        let Some(tick) = newest.flatten() else {
            return Poll::Ready(None);
        };
        let sequence = tick.message.sequence;
        let after = mem::replace(&mut self.last_sequence, sequence);
        let first = mem::replace(&mut self.first, false);
        let skipped_ticks = if first {
            0
        } else {
            sequence.saturating_sub(after + 1)
        };
        Poll::Ready(Some(Delivery {
            tick,
            skipped_ticks,
            after,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_stream::StreamExt;

    use super::*;

    fn publish(hub: &Hub, sequence: u64) {
        hub.publish(v1::SubscribeResponse {
            sequence,
            ..Default::default()
        });
    }

    async fn next(subscription: &mut Subscription) -> (u64, u64) {
        let delivery = subscription.next().await.unwrap();
        (delivery.tick.message.sequence, delivery.skipped_ticks)
    }

    #[tokio::test]
    async fn the_first_message_is_the_next_tick() {
        let hub = Hub::new(8);
        publish(&hub, 6);
        let mut subscription = hub.subscribe(false).unwrap();
        publish(&hub, 7);
        assert_eq!(next(&mut subscription).await, (7, 0));
        publish(&hub, 8);
        assert_eq!(next(&mut subscription).await, (8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_before_a_tick() {
        let hub = Hub::new(8);
        publish(&hub, 1);
        let mut subscription = hub.subscribe(false).unwrap();
        let wait = tokio::time::timeout(Duration::from_secs(9), subscription.next());
        assert!(wait.await.is_err());
    }

    #[tokio::test]
    async fn a_slow_subscriber_skips_and_another_misses_nothing() {
        let hub = Hub::new(8);
        let mut slow = hub.subscribe(false).unwrap();
        let mut quick = hub.subscribe(false).unwrap();
        publish(&hub, 1);
        assert_eq!(next(&mut slow).await, (1, 0));
        assert_eq!(next(&mut quick).await, (1, 0));
        for sequence in 2..=6 {
            publish(&hub, sequence);
            assert_eq!(next(&mut quick).await, (sequence, 0));
        }
        assert_eq!(next(&mut slow).await, (6, 4));
        publish(&hub, 7);
        assert_eq!(next(&mut slow).await, (7, 0));
    }

    fn publish_exit(hub: &Hub, sequence: u64, sent_bytes_total: u64) {
        let sample = v1::NetIoSample {
            state: v1::ProcessState::Exited.into(),
            sent_bytes_total,
            ..Default::default()
        };
        let samples = vec![sample];
        hub.publish(v1::SubscribeResponse {
            sequence,
            samples,
            ..Default::default()
        });
    }

    async fn late_totals(subscription: &mut Subscription) -> Vec<u64> {
        let delivery = subscription.next().await.unwrap();
        delivery
            .skipped_last_samples()
            .map(|sample| sample.sent_bytes_total)
            .collect()
    }

    #[tokio::test]
    async fn a_process_that_exits_in_a_skipped_tick_is_told_late_and_once() {
        let hub = Hub::new(8);
        publish_exit(&hub, 1, 11); // before anybody subscribed
        let mut slow = hub.subscribe(false).unwrap();
        publish_exit(&hub, 2, 22);
        publish(&hub, 3);
        assert_eq!(late_totals(&mut slow).await, [22]);
        publish(&hub, 4);
        publish_exit(&hub, 5, 55);
        publish_exit(&hub, 6, 66);
        // The last one is in the tick itself.
        assert_eq!(late_totals(&mut slow).await, [55]);
        publish(&hub, 7);
        assert_eq!(late_totals(&mut slow).await, [0; 0]);
    }

    #[tokio::test]
    async fn last_samples_are_kept_up_to_a_limit() {
        let hub = Hub::new(8);
        let mut slow = hub.subscribe(false).unwrap();
        let exits = MAX_LAST_SAMPLES as u64 + 10;
        for sequence in 1..=exits {
            publish_exit(&hub, sequence, sequence);
        }
        publish(&hub, exits + 1);
        let totals = late_totals(&mut slow).await;
        assert_eq!(totals.len(), MAX_LAST_SAMPLES);
        assert_eq!(totals.last(), Some(&exits));
    }

    #[tokio::test]
    async fn a_slow_subscriber_holds_one_tick_only() {
        let hub = Hub::new(8);
        let slow = hub.subscribe(false).unwrap();
        publish(&hub, 1);
        let first = Arc::downgrade(&hub.newest.borrow().clone().unwrap());
        publish(&hub, 2);
        assert!(first.upgrade().is_none());
        drop(slow);
    }

    #[tokio::test]
    async fn the_limit_holds_and_a_dropped_subscription_makes_room() {
        let hub = Hub::new(2);
        let first = hub.subscribe(false).unwrap();
        let _second = hub.subscribe(false).unwrap();
        assert_eq!(hub.subscribers(), 2);
        assert_eq!(hub.subscribe(false).err().unwrap().max_subscribers, 2);
        drop(first);
        assert_eq!(hub.subscribers(), 1);
        assert!(hub.subscribe(false).is_ok());
    }

    #[tokio::test]
    async fn a_subscription_ends_with_the_hub() {
        let hub = Hub::new(2);
        let mut subscription = hub.subscribe(false).unwrap();
        publish(&hub, 1);
        drop(hub);
        assert_eq!(next(&mut subscription).await, (1, 0));
        assert!(subscription.next().await.is_none());
    }
}
