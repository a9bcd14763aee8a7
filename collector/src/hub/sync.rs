//! What threads share values by.
#![forbid(unsafe_code)]

pub(super) use std::sync::{Arc, Mutex, atomic};
use std::sync::{MutexGuard, PoisonError};

/// No invariant is left broken by a panic, as none can happen under a lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
