//! Whether a peer has proved who it is.
//!
//! Some have by their connection. Others give a token with a call; until one was let in,
//! theirs is one of few places, and they get only so long. Produces [`Proof`], which
//! [`crate::access::Gate`] is told of, and by which [`super::http2`] ends connections.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

/// See the module.
#[derive(Debug)]
pub(crate) struct Proof(Mutex<Lacking>);

#[derive(Debug)]
enum Lacking {
    Nothing,
    /// And its place among those that lack it, where these are counted.
    Proof(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>),
}

impl Proof {
    /// By the connection itself.
    pub(super) fn given() -> Self {
        Self(Mutex::new(Lacking::Nothing))
    }

    /// Not yet.
    pub(super) fn lacking(place: Option<OwnedSemaphorePermit>) -> Self {
        Self(Mutex::new(Lacking::Proof(place)))
    }

    /// A call was let in.
    pub(crate) fn give(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Lacking::Nothing;
    }

    pub(super) fn is_given(&self) -> bool {
        let lacking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*lacking, Lacking::Nothing)
    }
}
