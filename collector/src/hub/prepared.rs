//! A message as it goes out: encoded already.
#![forbid(unsafe_code)]

use bytes::{Buf, BufMut, Bytes, BytesMut};
use netio::v1;
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, skip_field},
};

/// The number of `SubscribeResponse.skipped_ticks`.
const SKIPPED_TICKS: u32 = 4;
/// The number of `SubscribeResponse.samples`.
pub(super) const SAMPLES: u32 = 6;

/// A `netio.v1.SubscribeResponse` in its encoded form. Clones share the bytes, so
/// that what many subscribers get is encoded once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prepared(pub(super) Bytes);

impl Prepared {
    /// The same with what only one subscriber needs. In protobuf a message may go
    /// on where it ended: later fields are added to those before.
    pub(super) fn with(self, skipped_ticks: u64, late: &[&v1::NetIoSample]) -> Self {
        if skipped_ticks == 0 && late.is_empty() {
            return self;
        }
        let mut bytes = BytesMut::from(self.0);
        encoding::uint64::encode(SKIPPED_TICKS, &skipped_ticks, &mut bytes);
        for sample in late {
            encoding::message::encode(SAMPLES, *sample, &mut bytes);
        }
        Self(bytes.freeze())
    }
}

impl Message for Prepared {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    /// Only for completeness: nobody sends us such a message.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_subscriber_needs_is_added_behind() {
        let sample = |id: &str| v1::NetIoSample {
            watch_id: id.to_owned(),
            ..v1::NetIoSample::default()
        };
        let message = v1::SubscribeResponse {
            sequence: 7,
            samples: vec![sample("w-1")],
            ..v1::SubscribeResponse::default()
        };
        let prepared = Prepared(message.encode_to_vec().into());
        assert_eq!(prepared.clone().with(0, &[]), prepared);
        let late = sample("w-2");
        let more = prepared.with(3, &[&late]);
        let decoded = v1::SubscribeResponse::decode(more.encode_to_vec().as_slice()).unwrap();
        assert_eq!((decoded.sequence, decoded.skipped_ticks), (7, 3));
        assert_eq!(decoded.samples, [sample("w-1"), late]);
    }
}
