//! Finds the processes that rules match after their watches were made.
//!
//! Takes the rules as they change, and the kernel's word of processes that have
//! executed a program, begun to listen or moved to another cgroup; lets what
//! matches into the watches. Promises: such a process is looked at at once, and
//! again [`SECOND_LOOK`] later, since what it will be known by may not be there
//! yet (a socket listens a moment after the kernel tells so); a new rule is looked
//! for at once; and everything is looked at every [`RESCAN`], whatever was missed.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeSet, VecDeque},
    future::pending,
    mem,
    sync::PoisonError,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    enrolment::{EnrolError, Enrolment, not_counted},
    kernel::Changes,
    processes::{Found, Selector},
    sampler::{CommandError, Handover, Rules},
    watches::{Rule, WatchId},
};

#[cfg(test)]
mod tests;

/// When a process that changed is looked at once more.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// How often all processes are looked at while there are rules.
const RESCAN: Duration = Duration::from_secs(10);
/// Processes that wait for their second look; of more, the oldest wait for the
/// rescan.
const MAX_WAITING: usize = 4096;

/// See the module.
pub(crate) struct Discovery {
    enrolment: Enrolment,
    rules: watch::Receiver<Rules>,
    /// Where the kernel's word comes from, another one when hooks are attached again.
    handover: watch::Receiver<Handover>,
    /// None, where the kernel does not tell.
    changes: Option<Changes>,
    /// Watches whose rules were looked for among all processes.
    known: BTreeSet<WatchId>,
    /// Processes to look at once more, the earliest first.
    second_looks: VecDeque<(Instant, u32)>,
}

impl Discovery {
    pub(crate) fn new(
        enrolment: Enrolment,
        rules: watch::Receiver<Rules>,
        mut handover: watch::Receiver<Handover>,
    ) -> Self {
        // What is there already is news.
        handover.mark_changed();
        Self {
            enrolment,
            rules,
            handover,
            changes: None,
            known: BTreeSet::new(),
            second_looks: VecDeque::new(),
        }
    }

    /// Runs until it is told to stop, or the sampler has.
    pub(crate) async fn run(self, stop: CancellationToken) {
        // Also in the middle of a look.
        stop.run_until_cancelled(self.look()).await;
    }

    async fn look(mut self) {
        let mut rescan = interval(RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.rules.changed() => match changed {
                    Ok(()) => self.look_for_new_rules().await,
                    Err(_) => break,
                },
                changed = self.handover.changed() => match changed {
                    Ok(()) => self.take_over_changes(),
                    Err(_) => break,
                },
                pids = next_changes(&mut self.changes) => self.look_at_changed(pids).await,
                pids = due(&mut self.second_looks) => self.look_at(pids).await,
                _ = rescan.tick() => {
                    let rules = self.rules.borrow().clone();
                    self.look_for(&rules, true).await;
                }
            }
        }
    }

    fn take_over_changes(&mut self) {
        let handover = self.handover.borrow_and_update();
        self.changes = handover
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    async fn look_for_new_rules(&mut self) {
        let rules = self.rules.borrow_and_update().clone();
        self.known
            .retain(|id| rules.iter().any(|rule| rule.id == *id));
        let new: Vec<Rule> = rules
            .iter()
            .filter(|rule| self.known.insert(rule.id))
            .cloned()
            .collect();
        self.look_for(&new, false).await;
    }

    async fn look_for(&self, rules: &[Rule], thorough: bool) {
        if let Err(error) = self.enrolment.look_for(rules, thorough).await {
            tell(&error);
        }
    }

    async fn look_at_changed(&mut self, pids: BTreeSet<u32>) {
        let later = Instant::now() + SECOND_LOOK;
        for pid in &pids {
            if self.second_looks.len() == MAX_WAITING {
                self.second_looks.pop_front();
            }
            self.second_looks.push_back((later, *pid));
        }
        self.look_at(pids).await;
    }

    /// Looks whether these processes match any rule.
    async fn look_at(&mut self, pids: BTreeSet<u32>) {
        let rules = self.rules.borrow().clone();
        if rules.is_empty() {
            return;
        }
        let selectors: Vec<Selector> = rules.iter().map(|rule| rule.selector.clone()).collect();
        let matches = self.enrolment.look(move |processes| {
            let each = pids.into_iter();
            // A process joins several watches, and each wants its own.
            let of_rule = |pid| {
                let (indices, found) = processes.matches(pid, &selectors)?;
                let id = found.id();
                let more = indices
                    .iter()
                    .skip(1)
                    .filter_map(|_| processes.find(pid).ok())
                    .filter(|again| again.id() == id);
                let all: Vec<Found> = [found].into_iter().chain(more).collect();
                Some(indices.into_iter().zip(all))
            };
            Ok(each.filter_map(of_rule).flatten().collect::<Vec<_>>())
        });
        for (index, found) in matches.await.unwrap_or_default() {
            if let Some(rule) = rules.get(index)
                && let Err(error) = self.enrolment.join(rule, found).await
            {
                match error {
                    EnrolError::Command(error) => not_counted(rule.id, &error),
                    error @ EnrolError::Find(_) => tell(&error),
                }
            }
        }
    }
}

fn tell(error: &EnrolError) {
    match error {
        EnrolError::Command(CommandError::ShuttingDown) => {}
        error => warn!(%error, "cannot look for processes"),
    }
}

/// The next processes that changed, as many as are told at once.
async fn next_changes(changes: &mut Option<Changes>) -> BTreeSet<u32> {
    let Some(stream) = changes else {
        return pending().await;
    };
    let mut pids = BTreeSet::new();
    let Some(first) = stream.next().await else {
        *changes = None;
        return pids;
    };
    pids.insert(first);
    while pids.len() < MAX_WAITING
        && let std::task::Poll::Ready(Some(pid)) = poll_once(stream).await
    {
        pids.insert(pid);
    }
    pids
}

/// What is there at once.
async fn poll_once(stream: &mut Changes) -> std::task::Poll<Option<u32>> {
    std::future::poll_fn(|cx| std::task::Poll::Ready(stream.as_mut().poll_next(cx))).await
}

/// The processes whose second look is due.
async fn due(looks: &mut VecDeque<(Instant, u32)>) -> BTreeSet<u32> {
    let Some((first, _)) = looks.front() else {
        return pending().await;
    };
    sleep_until(*first).await;
    let now = Instant::now();
    let later = looks.iter().position(|(at, _)| *at > now);
    let rest = looks.split_off(later.unwrap_or(looks.len()));
    mem::replace(looks, rest)
        .into_iter()
        .map(|(_, pid)| pid)
        .collect()
}
