//! Hands each tick to every subscriber.
//!
//! Takes the sampler's ticks, produces one [`Subscription`] per subscriber: a
//! stream of ticks. Each subscriber holds one place for the newest tick and no
//! queue, so a slow one skips ticks, is told how many, delays nobody and costs
//! no memory. Dropping a subscription ends it. The hub knows nothing of
//! processes or the kernel.
#![forbid(unsafe_code)]

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use netio::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::{Stream, wrappers::WatchStream};

/// One tick's message with the samples of every watch, as a subscriber to all
/// of them gets it; `skipped_ticks` is the subscriber's own matter and 0 here.
pub(crate) type Tick = Arc<v1::SubscribeResponse>;

/// The subscribers, up to a limit.
pub(crate) struct Hub {
    newest: watch::Sender<Option<Tick>>,
    places: Arc<Semaphore>,
    max_subscribers: u32,
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
        }
    }

    /// Gives every subscriber this tick, in place of one not yet read.
    pub(crate) fn publish(&self, tick: v1::SubscribeResponse) {
        self.newest.send_replace(Some(Arc::new(tick)));
    }

    /// Begins with the next tick after this call.
    pub(crate) fn subscribe(&self) -> Result<Subscription, TooManySubscribers> {
        let place =
            Arc::clone(&self.places)
                .try_acquire_owned()
                .map_err(|_| TooManySubscribers {
                    max_subscribers: self.max_subscribers,
                })?;
        Ok(Subscription {
            ticks: WatchStream::from_changes(self.newest.subscribe()),
            last_sequence: None,
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
    ticks: WatchStream<Option<Tick>>,
    last_sequence: Option<u64>,
    _place: OwnedSemaphorePermit,
}

/// A tick, and how many this subscriber was too slow for since the last one.
pub(crate) struct Delivery {
    pub(crate) tick: Tick,
    pub(crate) skipped_ticks: u64,
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // The place is empty only before the first tick, and that is no change.
        let newest = ready!(Pin::new(&mut self.ticks).poll_next(cx));
        let Some(tick) = newest.flatten() else {
            return Poll::Ready(None);
        };
        let skipped_ticks = match self.last_sequence {
            Some(last) => tick.sequence.saturating_sub(last + 1),
            None => 0,
        };
        self.last_sequence = Some(tick.sequence);
        Poll::Ready(Some(Delivery {
            tick,
            skipped_ticks,
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
        (delivery.tick.sequence, delivery.skipped_ticks)
    }

    #[tokio::test]
    async fn the_first_message_is_the_next_tick() {
        let hub = Hub::new(8);
        publish(&hub, 6);
        let mut subscription = hub.subscribe().unwrap();
        publish(&hub, 7);
        assert_eq!(next(&mut subscription).await, (7, 0));
        publish(&hub, 8);
        assert_eq!(next(&mut subscription).await, (8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_before_a_tick() {
        let hub = Hub::new(8);
        publish(&hub, 1);
        let mut subscription = hub.subscribe().unwrap();
        let wait = tokio::time::timeout(Duration::from_secs(9), subscription.next());
        assert!(wait.await.is_err());
    }

    #[tokio::test]
    async fn a_slow_subscriber_skips_and_another_misses_nothing() {
        let hub = Hub::new(8);
        let mut slow = hub.subscribe().unwrap();
        let mut quick = hub.subscribe().unwrap();
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

    #[tokio::test]
    async fn a_slow_subscriber_holds_one_tick_only() {
        let hub = Hub::new(8);
        let slow = hub.subscribe().unwrap();
        publish(&hub, 1);
        let first = Arc::downgrade(&hub.newest.borrow().clone().unwrap());
        publish(&hub, 2);
        assert!(first.upgrade().is_none());
        drop(slow);
    }

    #[tokio::test]
    async fn the_limit_holds_and_a_dropped_subscription_makes_room() {
        let hub = Hub::new(2);
        let first = hub.subscribe().unwrap();
        let _second = hub.subscribe().unwrap();
        assert_eq!(hub.subscribers(), 2);
        assert_eq!(hub.subscribe().err().unwrap().max_subscribers, 2);
        drop(first);
        assert_eq!(hub.subscribers(), 1);
        assert!(hub.subscribe().is_ok());
    }

    #[tokio::test]
    async fn a_subscription_ends_with_the_hub() {
        let hub = Hub::new(2);
        let mut subscription = hub.subscribe().unwrap();
        publish(&hub, 1);
        drop(hub);
        assert_eq!(next(&mut subscription).await, (1, 0));
        assert!(subscription.next().await.is_none());
    }
}
