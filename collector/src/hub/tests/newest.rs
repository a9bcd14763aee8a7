//! The newest value: who gets it, and who is woken.

use std::{
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use super::super::newest::{AT_A_TIME, Newest, Receiver};
use crate::hub::lock;

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
fn fault_17_no_wake_up_is_lost_between_threads() {
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
