//! The message of a tick, as the servers without a collector make it, and what
//! the load reads of any.
//!
//! On the wire a message has gRPC's prefix of 5 bytes, also where it is sent
//! without HTTP/2.

use std::{process, time::Duration};

use anyhow::{Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use netio::v1;
use prost::Message as _;
use prost_types::Timestamp;

use crate::INTERVAL;

/// A flag (compressed or not) and the length.
const PREFIX: usize = 5;
/// Bytes per second that a watched process moves, so that figures have the
/// length of real ones.
pub(crate) const SENT: u64 = 12_345_678;
/// See [`SENT`].
pub(crate) const RECEIVED: u64 = 345_678;

/// What the load reads of a message; the rest is skipped over.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Head {
    /// `SubscribeResponse.time`.
    #[prost(message, optional, tag = "2")]
    pub(crate) time: Option<Timestamp>,
    /// `SubscribeResponse.skipped_ticks`.
    #[prost(uint64, tag = "4")]
    pub(crate) skipped_ticks: u64,
}

impl Head {
    /// The tick's wall-clock time.
    pub(crate) fn time(&self) -> Duration {
        let time = self.time.unwrap_or_default();
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        seconds + Duration::from_nanos(u64::from(time.nanos.unsigned_abs()))
    }
}

/// A message like the collector's with so many watches.
pub(crate) fn message(time: Duration, sequence: u64, watches: u32) -> v1::SubscribeResponse {
    v1::SubscribeResponse {
        sequence,
        time: Some(Timestamp {
            seconds: time.as_secs().cast_signed(),
            nanos: time.subsec_nanos().cast_signed(),
        }),
        interval: Some(prost_types::Duration {
            seconds: INTERVAL.as_secs().cast_signed(),
            nanos: 1,
        }),
        instance: Some(v1::CollectorInstance {
            boot_id: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
            generation: u64::from(u32::MAX) * 1_000,
            lineage: u64::from(u32::MAX) * 1_000,
        }),
        samples: (1..=watches)
            .map(|watch| sample(format!("w-{watch}"), sequence))
            .collect(),
        map_full: Some(v1::MapFull::default()),
        missed_events: Some(v1::MissedEvents {
            recursion: Some(0),
            kretprobe: Some(0),
        }),
        ticks: 1,
        ..Default::default()
    }
}

fn sample(watch_id: String, sequence: u64) -> v1::NetIoSample {
    v1::NetIoSample {
        watch_id,
        process: Some(v1::Process {
            pid: process::id(),
            start_time_ns: u64::from(u32::MAX) * 1_000,
            name: "netio-bench-fan".to_owned(),
            container_pid: process::id(),
            ..Default::default()
        }),
        state: v1::ProcessState::Running.into(),
        sent_bytes: SENT,
        received_bytes: RECEIVED,
        sent_calls: 2,
        received_calls: 2,
        sent_bytes_total: sequence * SENT,
        received_bytes_total: sequence * RECEIVED,
        sent_calls_total: sequence * 2,
        received_calls_total: sequence * 2,
        process_count: 1,
        ..Default::default()
    }
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Finds the messages in a stream of bytes that comes in pieces.
#[derive(Default)]
pub(crate) struct Deframer {
    /// The beginning of a message that has not come in whole.
    rest: Vec<u8>,
}

impl Deframer {
    /// Hands each message that this piece completes to `each`, and its length
    /// with the prefix.
    pub(crate) fn take(&mut self, piece: &[u8], mut each: impl FnMut(Head, usize)) -> Result<()> {
        if self.rest.is_empty() {
            let used = whole(piece, &mut each)?;
            self.rest
                .extend_from_slice(piece.get(used..).unwrap_or_default());
        } else {
            self.rest.extend_from_slice(piece);
            let used = whole(&self.rest, &mut each)?;
            self.rest.drain(..used);
        }
        Ok(())
    }
}

/// The whole messages at the beginning of `bytes`; gives the length of them all.
fn whole(bytes: &[u8], each: &mut impl FnMut(Head, usize)) -> Result<usize> {
    let mut left = bytes;
    while let Some(mut prefix) = left.get(..PREFIX) {
        ensure!(prefix.get_u8() == 0, "a message is compressed");
        let end = PREFIX + prefix.get_u32() as usize;
        let Some(body) = left.get(PREFIX..end) else {
            break;
        };
        each(Head::decode(body)?, end);
        left = left.get(end..).unwrap_or_default();
    }
    Ok(bytes.len() - left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let time = Duration::from_millis(1_234_567);
        let frame = framed(&message(time, 3, 10));
        let stream = frame.repeat(3);
        for size in [1, 4, 7, frame.len(), frame.len() + 1, stream.len()] {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(size) {
                deframer
                    .take(piece, |head, length| seen.push((head.time(), length)))
                    .unwrap();
            }
            assert_eq!(seen, [(time, frame.len()); 3], "pieces of {size}");
        }
    }

    #[test]
    fn the_usual_watches_make_about_a_kibibyte() {
        let length = message(crate::now(), 1_000, crate::serve::WATCHES).encoded_len();
        assert!((950..1_100).contains(&length), "{length}");
    }
}
