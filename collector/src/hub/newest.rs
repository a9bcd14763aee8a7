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
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::lock;

/// Wakers that are taken at a time; they are called without any lock.
const AT_A_TIME: usize = 64;

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
                subscribers: Mutex::default(),
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
        let waker = Arc::default();
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

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        task::Wake,
        thread::{self, Thread},
        time::Duration,
    };

    use super::*;

    /// Notes, when it is woken, which one it is.
    struct Noted {
        number: usize,
        woken: Arc<Mutex<Vec<usize>>>,
    }

    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            lock(&self.woken).push(self.number);
        }
    }

    /// Polls each receiver with a waker of its own; gives who was woken since, in
    /// that order.
    fn wait(receivers: &mut [Receiver<u32>]) -> Arc<Mutex<Vec<usize>>> {
        let woken = Arc::<Mutex<Vec<usize>>>::default();
        for (number, receiver) in receivers.iter_mut().enumerate() {
            let woken = Arc::clone(&woken);
            let waker = Arc::new(Noted { number, woken }).into();
            let mut cx = Context::from_waker(&waker);
            assert!(receiver.poll_next(&mut cx).is_pending());
        }
        woken
    }

    fn poll(receiver: &mut Receiver<u32>) -> Poll<Option<u32>> {
        let mut cx = Context::from_waker(Waker::noop());
        receiver.poll_next(&mut cx).map(|it| it.map(|it| *it))
    }

    #[test]
    fn the_newest_wins_and_comes_once() {
        let newest = Newest::new();
        newest.replace(Arc::new(1));
        let mut receiver = newest.subscribe(0);
        assert_eq!(poll(&mut receiver), Poll::Pending, "it was there before");
        let unseen = Arc::new(2);
        let held = Arc::downgrade(&unseen);
        newest.replace(unseen);
        newest.replace(Arc::new(3));
        assert!(held.upgrade().is_none());
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(3)));
        assert_eq!(poll(&mut receiver), Poll::Pending);
        newest.replace(Arc::new(4));
        drop(newest);
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(4)));
        assert_eq!(poll(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn those_who_wait_are_woken_by_group_then_in_order_and_once() {
        let newest = Newest::new();
        let groups = [5, 2, 5, 9, 2, 5];
        let mut receivers: Vec<_> = groups.map(|group| newest.subscribe(group)).into();
        let woken = wait(&mut receivers);
        newest.replace(Arc::new(1));
        newest.replace(Arc::new(2));
        assert_eq!(*lock(&woken), [1, 4, 0, 2, 5, 3]);
    }

    #[test]
    fn however_many_wait_all_are_woken() {
        for count in [AT_A_TIME - 1, AT_A_TIME, AT_A_TIME + 1, 5 * AT_A_TIME] {
            let newest = Newest::new();
            let mut receivers: Vec<_> = (0..count).map(|_| newest.subscribe(0)).collect();
            let woken = wait(&mut receivers);
            newest.replace(Arc::new(1));
            assert_eq!(*lock(&woken), Vec::from_iter(0..count));
        }
    }

    #[test]
    fn who_is_dropped_is_not_woken_and_leaves_nothing() {
        let newest = Newest::new();
        let mut receivers: Vec<_> = (0..3).map(|_| newest.subscribe(0)).collect();
        let woken = wait(&mut receivers);
        receivers.remove(1);
        assert_eq!(newest.subscribers(), 2);
        newest.replace(Arc::new(1));
        assert_eq!(*lock(&woken), [0, 2]);
        drop(receivers);
        assert_eq!(newest.subscribers(), 0);
    }

    #[test]
    fn the_end_wakes_all() {
        let newest = Newest::new();
        let mut receivers: Vec<_> = (0..3).map(|_| newest.subscribe(0)).collect();
        let woken = wait(&mut receivers);
        drop(newest);
        assert_eq!(*lock(&woken), [0, 1, 2]);
        assert_eq!(poll(&mut receivers[0]), Poll::Ready(None));
    }

    /// A waker may end a subscription and begin another.
    #[test]
    fn wakers_are_called_without_a_lock() {
        struct Changes {
            newest: Arc<Newest<u32>>,
            receiver: Mutex<Option<Receiver<u32>>>,
        }

        impl Wake for Changes {
            fn wake(self: Arc<Self>) {
                let next = self.newest.subscribe(0);
                *lock(&self.receiver) = Some(next);
            }
        }

        let newest = Arc::new(Newest::new());
        let changes = Arc::new(Changes {
            receiver: Mutex::new(Some(newest.subscribe(0))),
            newest: Arc::clone(&newest),
        });
        let waker = Arc::clone(&changes).into();
        if let Some(receiver) = &mut *lock(&changes.receiver) {
            let polled = receiver.poll_next(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        newest.replace(Arc::new(1));
        assert_eq!(newest.subscribers(), 1);
    }

    struct Unparks(Thread);

    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Waits for values until the end; gives the last. They must grow.
    fn last(mut receiver: Receiver<u32>) -> u32 {
        let waker = Arc::new(Unparks(thread::current())).into();
        let mut last = 0;
        loop {
            match receiver.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => thread::park(),
                Poll::Ready(None) => return last,
                Poll::Ready(Some(value)) => {
                    assert!(*value > last, "{value} after {last}");
                    last = *value;
                }
            }
        }
    }

    /// A wake-up that is lost would leave a thread parked.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ROUNDS: u32 = 300;
        const VALUES: u32 = 20;
        for round in 0..ROUNDS {
            let newest = Newest::new();
            let (sender, ended) = mpsc::channel();
            for group in 0..4 {
                let receiver = newest.subscribe(group);
                let sender = sender.clone();
                thread::spawn(move || sender.send(last(receiver)));
            }
            for value in 1..=VALUES {
                newest.replace(Arc::new(value));
                // Subscriptions come and go meanwhile.
                drop(newest.subscribe(2));
                if value % 4 == round % 4 {
                    thread::yield_now();
                }
            }
            drop(newest);
            for _ in 0..4 {
                let last = ended.recv_timeout(Duration::from_secs(20)).unwrap();
                assert_eq!(last, VALUES);
            }
        }
    }

    /// The same where each value must be seen before the next one is made.
    #[test]
    fn each_value_wakes_who_has_seen_the_one_before() {
        let newest = Newest::new();
        let (sender, seen) = mpsc::channel();
        let mut receiver = newest.subscribe(0);
        thread::spawn(move || {
            let waker = Arc::new(Unparks(thread::current())).into();
            loop {
                match receiver.poll_next(&mut Context::from_waker(&waker)) {
                    Poll::Pending => thread::park(),
                    Poll::Ready(None) => return,
                    Poll::Ready(Some(value)) => sender.send(*value).unwrap(),
                }
            }
        });
        for value in 1..=20_000 {
            newest.replace(Arc::new(value));
            let seen = seen.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(seen, value);
        }
    }
}
