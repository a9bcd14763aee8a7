//! The newest value under loom, which tries the orders in which threads can do what
//! they do (see [`model`]), as far as the memory model of C11 lets them see it. A wake-up
//! that is lost in any of them is a thread that waits for ever, which loom tells.

use std::task::{Context, Poll, Wake, Waker};

use loom::thread::{self, Thread};

use newest::{Newest, Receiver};
use sync::Arc;

#[path = "../newest.rs"]
#[allow(dead_code, clippy::duplicate_mod)] // Once more, with what loom controls.
mod newest;

/// In the place of the hub's.
mod sync {
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard, atomic};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}

struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for values until the end; gives the last. They must grow.
fn last(mut receiver: Receiver<u32>) -> u32 {
    let waker: Waker = std::sync::Arc::new(Unparks(thread::current())).into();
    let mut last = 0;
    loop {
        match receiver.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Pending => thread::park(),
            Poll::Ready(None) => return last,
            Poll::Ready(Some(value)) => {
                let value = *value;
                assert!(value > last, "{value} after {last}");
                last = value;
            }
        }
    }
}

/// Every order in which no more than two threads are interrupted where they need not
/// be; of more there are too many to wait for.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(run);
}

/// Two values and the end, while one reads.
#[test]
fn fault_17_in_every_order_the_reader_has_the_last_value_and_the_end() {
    model(|| {
        let newest = Newest::new();
        let receiver = newest.subscribe(0);
        let reader = thread::spawn(move || last(receiver));
        newest.replace(Arc::new(1));
        newest.replace(Arc::new(2));
        drop(newest);
        assert_eq!(reader.join().unwrap(), 2);
    });
}

/// Who subscribes while a value comes gets that or the next, and goes while others are
/// woken.
#[test]
fn fault_17_in_every_order_readers_may_come_and_go() {
    model(|| {
        let newest = Arc::new(Newest::new());
        let receiver = newest.subscribe(1);
        let reader = thread::spawn(move || last(receiver));
        let late = thread::spawn({
            let newest = Arc::clone(&newest);
            move || drop(newest.subscribe(0))
        });
        newest.replace(Arc::new(1));
        late.join().unwrap();
        newest.close();
        assert_eq!(reader.join().unwrap(), 1);
        assert_eq!(newest.subscribers(), 0);
    });
}
