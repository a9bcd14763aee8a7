//! The body of a request, as it comes.
//!
//! Takes a stream's receiving side, produces what services read. What was read makes
//! room for more; what nobody reads keeps the peer from sending.
#![forbid(unsafe_code)]

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

/// See the module.
pub(super) struct RequestBody {
    stream: RecvStream,
    /// What may follow are trailers.
    is_read: bool,
}

impl RequestBody {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            is_read: false,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_read {
            if let Some(data) = ready!(self.stream.poll_data(cx)) {
                let data = data?;
                self.stream.flow_control().release_capacity(data.len())?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.is_read = true;
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
