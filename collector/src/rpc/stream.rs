//! The stream of one Subscribe call.
//!
//! Takes a [`Subscription`], produces the caller's messages: only the samples it
//! asked for, the last ones of processes that exited in skipped ticks included,
//! and a status when the collector stops. Dropping it ends the
//! subscription.
#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    pin::Pin,
    task::{Context, Poll, ready},
};

use netio::v1;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status::shutting_down;
use crate::{
    hub::{Delivery, Subscription},
    watches::Hold,
};

/// See the module.
pub(crate) struct SampleStream {
    subscription: Subscription,
    filter: Filter,
    /// Keeps the caller's leases from running down.
    _holds: Vec<Hold>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl SampleStream {
    /// Samples of these watches; none: of all.
    pub(super) fn new(
        subscription: Subscription,
        watch_ids: Vec<String>,
        holds: Vec<Hold>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            filter: Filter {
                watch_ids: watch_ids.into_iter().collect(),
                per_process: subscription.per_process(),
            },
            subscription,
            _holds: holds,
            stop: Box::pin(stop.cancelled_owned()),
            ended: false,
        }
    }
}

impl Stream for SampleStream {
    type Item = Result<v1::SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.stop.as_mut().poll(cx).is_pending() {
            let delivery = ready!(Pin::new(&mut self.subscription).poll_next(cx));
            if let Some(delivery) = delivery {
                return Poll::Ready(Some(Ok(self.filter.message(&delivery))));
            }
        }
        self.ended = true;
        Poll::Ready(Some(Err(shutting_down())))
    }
}

struct Filter {
    /// None: all.
    watch_ids: HashSet<String>,
    per_process: bool,
}

impl Filter {
    fn message(&self, delivery: &Delivery) -> v1::SubscribeResponse {
        let tick = &delivery.tick.message;
        let wanted = |sample: &&v1::NetIoSample| {
            self.watch_ids.is_empty() || self.watch_ids.contains(sample.watch_id.as_str())
        };
        v1::SubscribeResponse {
            sequence: tick.sequence,
            time: tick.time,
            interval: tick.interval,
            skipped_ticks: delivery.skipped_ticks,
            instance: tick.instance.clone(),
            map_full: tick.map_full,
            samples: tick
                .samples
                .iter()
                .chain(delivery.skipped_last_samples())
                .filter(wanted)
                .map(|sample| self.sample(sample))
                .collect(),
        }
    }

    fn sample(&self, sample: &v1::NetIoSample) -> v1::NetIoSample {
        if self.per_process {
            return sample.clone();
        }
        v1::NetIoSample {
            watch_id: sample.watch_id.clone(),
            process: sample.process.clone(),
            processes: Vec::new(),
            unlisted: None,
            ..*sample
        }
    }
}
