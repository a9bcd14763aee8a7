//! The gRPC API of netio, for Rust programs that integrate with it: how many
//! bytes a process sends and receives over TCP, second by second.
//!
//! [`v1`] holds the messages and the service, generated from
//! `proto/netio/v1/netio.proto`, whose comments give every field's unit.
//!
//! ```no_run
//! use netio::v1::{SubscribeRequest, Target, WatchRequest};
//! use netio::v1::net_io_service_client::NetIoServiceClient;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut netio = NetIoServiceClient::connect("unix:///run/netio/collector.sock").await?;
//! let watch = netio.watch(WatchRequest::new(Target::port(3306))).await?.into_inner().watch;
//! let watch_ids = watch.into_iter().map(|watch| watch.watch_id).collect();
//! let request = SubscribeRequest::new(watch_ids);
//! let mut ticks = netio.subscribe(request).await?.into_inner();
//! while let Some(tick) = ticks.message().await? {
//!     for sample in tick.samples {
//!         println!("{} B sent, {} B received", sample.sent_bytes, sample.received_bytes);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod connect;
pub mod printable;
mod target;
pub mod time;

pub use connect::{Channel, Connect, ConnectError, Token};

/// Version 1 of the API.
pub mod v1 {
    // Generated code answers to the generator's style, not to ours.
    #![allow(missing_docs, unreachable_pub, clippy::all)]

    tonic::include_proto!("netio.v1");

    /// The compiled `FileDescriptorSet` of this API, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/netio_descriptor.bin"));
}

/// The `domain` of every `google.rpc.ErrorInfo` that the collector sends.
pub const ERROR_DOMAIN: &str = "netio";

/// Where a collector listens, and a client looks, when nothing else is said.
pub const DEFAULT_ENDPOINT: &str = "unix:///run/netio/collector.sock";
