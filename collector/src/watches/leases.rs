//! When watches end by themselves.
//!
//! Takes leases, their renewals and holds, produces the watches whose leases have
//! run out. A lease that somebody holds does not run down: it is renewed at each
//! tick, and once more when it would run out. So it ends no later than its ttl
//! after the last hold was dropped, and no earlier than that less a tick.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::WatchId;

/// Keeps a lease from running down, until it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Hold(#[expect(dead_code, reason = "that it lives is what counts")] Arc<()>);

struct Lease {
    /// What was written down last: whether somebody held it.
    was_held: bool,
    ttl: Duration,
    deadline: Instant,
    /// Cloned into holds.
    held: Arc<()>,
}

impl Lease {
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.held) > 1
    }
}

/// What is left of a lease.
pub(super) struct Remaining {
    pub(super) ttl: Duration,
    pub(super) remaining: Duration,
    pub(super) held: bool,
}

/// The leases of all watches that are not standing.
#[derive(Default)]
pub(super) struct Leases {
    leases: HashMap<WatchId, Lease>,
    /// Every lease once, the first to run out first.
    queue: BTreeSet<(Instant, WatchId)>,
    /// One was renewed that would have run out.
    renewed: bool,
}

impl Leases {
    pub(super) fn begin(&mut self, id: WatchId, ttl: Duration, now: Instant) {
        self.go_on(id, ttl, now + ttl);
    }

    /// Goes on with a lease that was kept.
    pub(super) fn go_on(&mut self, id: WatchId, ttl: Duration, deadline: Instant) {
        let lease = Lease {
            was_held: false,
            ttl,
            deadline,
            held: Arc::default(),
        };
        self.queue.insert((lease.deadline, id));
        self.leases.insert(id, lease);
    }

    pub(super) fn end(&mut self, id: WatchId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.queue.remove(&(lease.deadline, id));
        }
    }

    /// Gives the lease its whole ttl again; a standing watch has none.
    pub(super) fn renew(&mut self, id: WatchId, now: Instant) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.queue.remove(&(lease.deadline, id));
            lease.deadline = now + lease.ttl;
            self.queue.insert((lease.deadline, id));
        }
    }

    /// A standing watch has nothing to hold.
    pub(super) fn hold(&mut self, id: WatchId, now: Instant) -> Option<Hold> {
        self.renew(id, now);
        let lease = self.leases.get(&id)?;
        Some(Hold(Arc::clone(&lease.held)))
    }

    pub(super) fn remaining(&self, id: WatchId, now: Instant) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        Some(Remaining {
            ttl: lease.ttl,
            remaining: lease.deadline.saturating_duration_since(now),
            held: lease.is_held(),
        })
    }

    /// Which are held is written down now.
    pub(super) fn note_written(&mut self) {
        for lease in self.leases.values_mut() {
            lease.was_held = lease.is_held();
        }
    }

    /// Renews those that are held, and tells whether these are others than was
    /// written down.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let mut changed = false;
        let mut held = Vec::new();
        for (id, lease) in &self.leases {
            let is_held = lease.is_held();
            changed |= lease.was_held != is_held;
            held.extend(is_held.then_some(*id));
        }
        for id in held {
            self.renew(id, now);
        }
        changed
    }

    /// When to call [`Leases::expired`] next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Whether one was renewed that would have run out, since the last call.
    pub(super) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Takes out the leases that have run out.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<WatchId> {
        let mut expired = Vec::new();
        while let Some((deadline, id)) = self.queue.first().copied()
            && deadline <= now
        {
            if self.leases.get(&id).is_some_and(Lease::is_held) {
                self.renew(id, now);
                self.renewed = true;
            } else {
                self.end(id);
                expired.push(id);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const ID: WatchId = WatchId(1);

    fn leases() -> (Leases, Instant) {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.begin(ID, TTL, now);
        (leases, now)
    }

    #[test]
    fn a_lease_runs_out_and_is_told_once() {
        let (mut leases, now) = leases();
        assert_eq!(leases.next(), Some(now + TTL));
        assert!(
            leases
                .expired(now + TTL - Duration::from_nanos(1))
                .is_empty()
        );
        assert_eq!(leases.expired(now + TTL), [ID]);
        assert!(leases.expired(now + 2 * TTL).is_empty());
        assert_eq!(leases.next(), None);
    }

    #[test]
    fn a_renewal_gives_the_whole_time_again() {
        let (mut leases, now) = leases();
        leases.renew(ID, now + TTL / 2);
        assert!(leases.expired(now + TTL).is_empty());
        assert_eq!(leases.expired(now + TTL + TTL / 2), [ID]);
    }

    #[test]
    fn a_held_lease_begins_to_run_down_when_the_last_hold_goes() {
        let (mut leases, now) = leases();
        let first = leases.hold(ID, now).unwrap();
        let second = leases.hold(ID, now).unwrap();
        leases.tick(now + 3 * TTL);
        drop(first);
        assert!(leases.expired(now + 5 * TTL).is_empty());
        let left = leases.remaining(ID, now + 5 * TTL).unwrap();
        assert!(left.held && left.remaining == TTL);
        leases.tick(now + 5 * TTL);
        drop(second);
        leases.tick(now + 5 * TTL + Duration::from_secs(1));
        let left = leases.remaining(ID, now + 5 * TTL + Duration::from_secs(4));
        assert_eq!(left.unwrap().remaining, Duration::from_secs(6));
        assert_eq!(leases.expired(now + 6 * TTL), [ID]);
    }

    #[test]
    fn a_standing_watch_has_no_lease() {
        let (mut leases, now) = leases();
        assert!(leases.hold(WatchId(2), now).is_none());
        assert!(leases.remaining(WatchId(2), now).is_none());
        leases.renew(WatchId(2), now);
        assert_eq!(leases.expired(now + TTL), [ID]);
    }

    #[test]
    fn an_ended_watch_does_not_run_out() {
        let (mut leases, now) = leases();
        leases.end(ID);
        assert!(leases.expired(now + TTL).is_empty());
    }
}
