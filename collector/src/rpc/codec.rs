//! How messages are read and written: as tonic's own codec does, but for requests
//! that no message is decoded from. Those are the caller's mistake, and are refused
//! as the API's other refusals are, by a reason.
#![forbid(unsafe_code)]

use prost::Message;
use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstCodec;

use super::status::status;

/// Writes `T`, reads `U`.
#[derive(Debug)]
pub(crate) struct ApiCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for ApiCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::new())
    }
}

impl<T, U> Codec for ApiCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = Requests<<ProstCodec<T, U> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Requests(self.0.decoder())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Requests<D>(D);

impl<D: Decoder<Error = Status>> Decoder for Requests<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        self.0.decode(from).map_err(|error| {
            let why = error.message();
            let message = format!(
                "the request is no message of its kind ({why}): send one that \
                 netio/v1/netio.proto describes"
            );
            status(Code::InvalidArgument, "REQUEST_MALFORMED", message, [])
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
