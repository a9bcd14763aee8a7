//! The stream of one Subscribe call.
//!
//! Takes a [`Subscription`], produces the caller's messages, and a status when the
//! hub is closed, as the collector stops. Dropping it ends the subscription and lets
//! go of leases.
#![forbid(unsafe_code)]

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;
use tonic::Status;

use super::status::shutting_down;
use crate::{
    hub::{Prepared, Subscription},
    server::OpenStream,
    watches::Hold,
};

/// See the module.
pub(crate) struct SampleStream {
    subscription: Subscription,
    /// Keeps the caller's leases from running out.
    _holds: Vec<Hold>,
    _open: OpenStream,
    ended: bool,
}

impl SampleStream {
    pub(super) fn new(subscription: Subscription, holds: Vec<Hold>, open: OpenStream) -> Self {
        Self {
            subscription,
            _holds: holds,
            _open: open,
            ended: false,
        }
    }
}

impl Stream for SampleStream {
    type Item = Result<Prepared, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.subscription.is_closed()
            && let Some(message) = ready!(Pin::new(&mut self.subscription).poll_next(cx))
        {
            return Poll::Ready(Some(Ok(message)));
        }
        self.ended = true;
        Poll::Ready(Some(Err(shutting_down())))
    }
}
