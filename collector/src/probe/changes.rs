//! The stream of pids that the programs tell through a ring buffer.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_stream::Stream;

use super::AttachError;
use crate::kernel::Changes;

/// How many pids are taken out of the ring at once.
const BATCH: usize = 256;

/// Reads the ring for as long as the stream lives. Called within a tokio runtime.
pub(super) fn stream(ring: RingBuf<MapData>) -> Result<Changes, AttachError> {
    // Its successor is unsafe, for the sake of types whose descriptor may change
    // while they are registered; a ring buffer's does not.
    #[expect(deprecated)]
    let ring = AsyncFd::with_interest(ring, Interest::READABLE)?;
    Ok(Box::pin(Pids {
        ring,
        read: VecDeque::new(),
    }))
}

struct Pids {
    ring: AsyncFd<RingBuf<MapData>>,
    read: VecDeque<u32>,
}

impl Stream for Pids {
    type Item = u32;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        loop {
            if let Some(pid) = self.read.pop_front() {
                return Poll::Ready(Some(pid));
            }
            let Self { ring, read } = &mut *self;
            let Ok(mut ready) = ready!(ring.poll_read_ready_mut(cx)) else {
                return Poll::Ready(None);
            };
            let ring = ready.get_inner_mut();
            while read.len() < BATCH
                && let Some(item) = ring.next()
            {
                read.extend(item.first_chunk().map(|pid| u32::from_ne_bytes(*pid)));
            }
            if read.is_empty() {
                ready.clear_ready();
            }
        }
    }
}
