//! Times that are none, and bytes that are no message: each is refused, and the
//! collector goes on.

use netio::v1::subscribe_request::Since;

use super::*;

/// Seconds and nanoseconds that are no duration at all, by the definition of
/// google.protobuf.Duration, or a negative one.
const NO_DURATIONS: [(i64, i32); 15] = [
    (i64::MIN, 0),
    (i64::MIN, i32::MIN),
    (i64::MIN, i32::MAX),
    (i64::MIN, -1),
    (i64::MAX, 0),
    (i64::MAX, i32::MAX),
    (i64::MAX, i32::MIN),
    (315_576_000_001, 0),
    (-1, 0),
    (0, -1),
    (-1, 1),
    (1, -1),
    (1, i32::MAX),
    (2, 1_000_000_000),
    (i64::MIN + 1, 999_999_999),
];

/// The same for google.protobuf.Timestamp.
const NO_TIMES: [(i64, i32); 10] = [
    (i64::MIN, 0),
    (i64::MIN, i32::MIN),
    (i64::MAX, i32::MAX),
    (i64::MAX, 0),
    (-62_135_596_801, 0),
    (253_402_300_800, 0),
    (0, -1),
    (0, 1_000_000_000),
    (1, i32::MIN),
    (1, i32::MAX),
];

async fn refused(client: &mut Client, request: v1::SubscribeRequest, reason: &str) {
    let status = client.subscribe(request).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, reason, &[]);
}

#[tokio::test(start_paused = true)]
async fn fault_22_extreme_times_are_refused_and_panic_nowhere() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut client = rig.client();
    for (seconds, nanos) in NO_DURATIONS {
        let duration = prost_types::Duration { seconds, nanos };
        let request = v1::SubscribeRequest {
            interval: Some(duration),
            ..v1::SubscribeRequest::default()
        };
        refused(&mut client, request, "INTERVAL_INVALID").await;
        let request = v1::WatchRequest {
            life: Some(Life::LeaseTtl(duration)),
            ..v1::WatchRequest::new(v1::Target::pid(7))
        };
        let status = client.watch(request).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, "LEASE_INVALID", &[]);
    }
    for (seconds, nanos) in NO_TIMES {
        let request = v1::SubscribeRequest {
            since: Some(Since::Time(prost_types::Timestamp { seconds, nanos })),
            ..v1::SubscribeRequest::default()
        };
        refused(&mut client, request, "SINCE_INVALID").await;
    }
    // Durations of the API, but not of this collector.
    for (seconds, nanos) in [(0, 0), (0, 1), (315_576_000_000, 0)] {
        let request = v1::SubscribeRequest {
            interval: Some(prost_types::Duration { seconds, nanos }),
            ..v1::SubscribeRequest::default()
        };
        refused(&mut client, request, "INTERVAL_INVALID").await;
    }
    // The first and the last time that there are.
    for seconds in [-62_135_596_800, 253_402_300_799] {
        let request = v1::SubscribeRequest {
            since: Some(Since::Time(prost_types::Timestamp { seconds, nanos: 0 })),
            ..v1::SubscribeRequest::default()
        };
        client.subscribe(request).await.unwrap();
    }
    let list = client.list_watches(v1::ListWatchesRequest {}).await;
    assert!(list.unwrap().into_inner().watches.is_empty());
}

/// Bytes that no message is decoded from.
const NO_MESSAGES: [&[u8]; 6] = [
    // The number of no field.
    &[0],
    // A length that goes beyond the end.
    &[0x0a, 0x7f, 1],
    // A length of ten bytes that is larger than any.
    &[
        0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ],
    // A string that is no UTF-8, as first field of the first field.
    &[0x0a, 0x03, 0x12, 0x01, 0xff],
    // A wire type that there is not.
    &[0x0f],
    // The end of a group that has not begun.
    &[0x0c],
];

/// Sends bytes as they are, in place of a message.
#[derive(Clone, Copy, Default)]
struct Raw;

struct RawEncoder;

impl tonic::codec::Encoder for RawEncoder {
    type Item = &'static [u8];
    type Error = Status;

    fn encode(
        &mut self,
        item: &'static [u8],
        to: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, item);
        Ok(())
    }
}

impl tonic::codec::Codec for Raw {
    type Encode = &'static [u8];
    type Decode = v1::WatchResponse;
    type Encoder = RawEncoder;
    type Decoder =
        <tonic_prost::ProstCodec<v1::WatchRequest, v1::WatchResponse> as tonic::codec::Codec>::Decoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstCodec::<v1::WatchRequest, v1::WatchResponse>::default().decoder()
    }
}

#[tokio::test(start_paused = true)]
async fn fault_22_bytes_that_are_no_message_are_an_error_of_that_call_alone() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut grpc = tonic::client::Grpc::new(rig.memory.channel());
    for method in ["Watch", "Unwatch", "RenewWatches", "Subscribe"] {
        for bytes in NO_MESSAGES {
            grpc.ready().await.unwrap();
            let path = format!("/netio.v1.NetIoService/{method}");
            let path = path.parse().unwrap();
            let answer = grpc.unary(Request::new(bytes), path, Raw).await;
            let status = answer.unwrap_err();
            let reason = "REQUEST_MALFORMED";
            assert_refused(&status, Code::InvalidArgument, reason, &[]);
        }
    }
    watch(&mut rig.client(), 7).await;
}
