//! The newest value of a kind, and who waits for the next.
//!
//! Takes values, one in place of the other; produces one [`Receiver`] per
//! subscriber, which gets the newest value that it has not seen. Promises: values
//! that nobody took are dropped at once; nobody who waits is forgotten; those who
//! wait are woken in order of their groups, and within one in the order in which
//! they subscribed. A group is what is better woken together: the streams of a
//! connection, whose messages then go out together.
//!
//! Neither side waits for the other: the list of subscribers is locked only to add,
//! to remove, and to take some wakers from it, and a subscriber has its own lock for
//! its waker.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    ops::Bound,
    task::{Context, Poll, Waker},
};

// A test runs it with other ones, which try every order of what threads do.
use super::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
    lock,
};

/// Wakers that are taken at a time; they are called without any lock.
pub(super) const AT_A_TIME: usize = 64;

/// By group, then in order of subscription.
type Key = (usize, u64);

/// See the module. Dropping it closes it.
pub(super) struct Newest<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    newest: Mutex<Option<Arc<T>>>,
    /// Counts the values. Changed under the lock of `newest`, before anybody is
    /// woken.
    version: AtomicU64,
    is_closed: AtomicBool,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    next: u64,
    waiting: BTreeMap<Key, Arc<Mutex<Option<Waker>>>>,
}

impl<T> Newest<T> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                newest: Mutex::new(None),
                version: AtomicU64::new(0),
                is_closed: AtomicBool::new(false),
                subscribers: Mutex::new(Subscribers::default()),
            }),
        }
    }

    /// The newest value, if there is one.
    pub(super) fn get(&self) -> Option<Arc<T>> {
        lock(&self.shared.newest).clone()
    }

    /// Puts this in the place of the newest value, and wakes who waits for it.
    pub(super) fn replace(&self, value: Arc<T>) {
        let before = {
            let mut newest = lock(&self.shared.newest);
            self.shared.version.fetch_add(1, Ordering::Release);
            newest.replace(value)
        };
        drop(before);
        self.wake();
    }

    /// A subscriber in a group; it waits for the value after the newest.
    pub(super) fn subscribe(&self, group: usize) -> Receiver<T> {
        let seen = self.shared.version.load(Ordering::Acquire);
        let waker = Arc::new(Mutex::new(None));
        let mut subscribers = lock(&self.shared.subscribers);
        let key = (group, subscribers.next);
        subscribers.next += 1;
        subscribers.waiting.insert(key, Arc::clone(&waker));
        Receiver {
            shared: Arc::clone(&self.shared),
            key,
            waker,
            seen,
        }
    }

    pub(super) fn subscribers(&self) -> usize {
        lock(&self.shared.subscribers).waiting.len()
    }

    /// No value will follow. Who has not seen the newest still gets it.
    pub(super) fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    /// A waker may do anything, so no lock is held while it is called. Who subscribes
    /// meanwhile knows the newest value.
    fn wake(&self) {
        let mut wakers = Vec::with_capacity(AT_A_TIME);
        let mut from = Bound::Unbounded;
        loop {
            let mut last = None;
            {
                let subscribers = lock(&self.shared.subscribers);
                let rest = subscribers.waiting.range((from, Bound::Unbounded));
                for (key, waker) in rest.take(AT_A_TIME) {
                    wakers.extend(lock(waker).take());
                    last = Some(*key);
                }
            }
            let Some(last) = last else {
                return;
            };
            from = Bound::Excluded(last);
            wakers.drain(..).for_each(Waker::wake);
        }
    }
}

impl<T> Drop for Newest<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// One subscriber's side. Dropping it ends the subscription.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    key: Key,
    waker: Arc<Mutex<Option<Waker>>>,
    /// The version of the value that was taken last.
    seen: u64,
}

impl<T> Receiver<T> {
    /// The newest value that was not taken yet; none when no other will come.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<T>>> {
        if let Some(value) = self.take() {
            return Poll::Ready(Some(value));
        }
        {
            let mut waker = lock(&self.waker);
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        // Whoever changes something takes wakers after that: either ours was there,
        // or the change is seen here.
        let is_closed = self.is_closed();
        match self.take() {
            Some(value) => Poll::Ready(Some(value)),
            None if is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    fn take(&mut self) -> Option<Arc<T>> {
        if self.shared.version.load(Ordering::Acquire) == self.seen {
            return None;
        }
        let newest = lock(&self.shared.newest);
        self.seen = self.shared.version.load(Ordering::Acquire);
        newest.clone()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        lock(&self.shared.subscribers).waiting.remove(&self.key);
    }
}
