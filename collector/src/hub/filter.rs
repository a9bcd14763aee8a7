//! What a subscriber wants of each tick.
//!
//! Takes messages with everything in them, produces encoded ones with what is
//! wanted. Two filters that want the same are equal, and the hub keeps one of
//! them, so that each distinct choice is encoded once a tick.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use bytes::BytesMut;
use netio::v1;
use prost::{Message as _, encoding};

use super::prepared::{Prepared, SAMPLES};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Filter {
    /// None: all.
    pub(crate) watch_ids: BTreeSet<String>,
    pub(crate) per_process: bool,
    pub(crate) only_changed: bool,
}

impl Filter {
    /// Whether it wants samples of this watch.
    pub(super) fn wants(&self, watch_id: &str) -> bool {
        self.watch_ids.is_empty() || self.watch_ids.contains(watch_id)
    }

    /// Whether it leaves out nothing but parts of processes: the usual wish.
    pub(super) fn is_everything(&self) -> bool {
        self.watch_ids.is_empty() && !self.per_process && !self.only_changed
    }

    /// The message with these of its samples that are wanted.
    pub(super) fn encode<'a>(
        &self,
        message: &v1::SubscribeResponse,
        samples: impl Iterator<Item = &'a v1::NetIoSample>,
    ) -> Prepared {
        let head = v1::SubscribeResponse {
            sequence: message.sequence,
            time: message.time,
            interval: message.interval,
            skipped_ticks: message.skipped_ticks,
            instance: message.instance.clone(),
            samples: Vec::new(),
            map_full: message.map_full,
            missed_events: message.missed_events,
            ticks: message.ticks,
        };
        let mut bytes = BytesMut::from(head.encode_to_vec().as_slice());
        for sample in samples.filter(|sample| self.wants(&sample.watch_id)) {
            let has_parts = !sample.processes.is_empty() || sample.unlisted.is_some();
            if self.per_process || !has_parts {
                encoding::message::encode(SAMPLES, sample, &mut bytes);
            } else {
                encoding::message::encode(SAMPLES, &without_parts(sample), &mut bytes);
            }
        }
        Prepared(bytes.freeze())
    }
}

fn without_parts(sample: &v1::NetIoSample) -> v1::NetIoSample {
    v1::NetIoSample {
        watch_id: sample.watch_id.clone(),
        process: sample.process.clone(),
        processes: Vec::new(),
        unlisted: None,
        ..*sample
    }
}

/// Whether a sample is news to one who knows the watch's state before.
pub(super) fn is_news(sample: &v1::NetIoSample, state_before: Option<i32>) -> bool {
    let moved = [
        sample.sent_bytes,
        sample.received_bytes,
        sample.sent_calls,
        sample.received_calls,
    ];
    state_before != Some(sample.state) || moved.iter().any(|count| *count > 0)
}
