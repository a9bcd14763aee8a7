//! What the loop does when the connection is lost: tries again, for a while and
//! ever less often, and goes on where the ticks stopped. Takes the failure that
//! tells of the loss, produces ticks that continue those before, or the failure
//! in the end.
//!
//! The channel connects by itself at each call. A collector within this process
//! does not come back, so there is nothing to wait for.
//!
//! Leases outlive an outage that is shorter. Own watches that did not live so
//! long, or that a restarted collector does not have, are made anew, once the
//! history has told all of the former ones.

use std::time::Duration;

use tokio::{
    io::AsyncWrite,
    time::{Instant, sleep, timeout_at},
};

use super::{Course, Session, Subject};
use crate::{
    failure::{Failure, Origin},
    model::{Point, lineage},
    target,
    ticks::{Since, Ticks},
    wanted,
};

/// How long and how often is tried again what may succeed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The pause before the first attempt; each is twice as long as the one before.
    pub(crate) first: Duration,
    /// But no longer than this.
    pub(crate) longest: Duration,
    /// How long in all.
    pub(crate) limit: Duration,
    /// How often it is looked up whether the watches exist, where ticks do not
    /// tell.
    pub(crate) look: Duration,
}

/// Several attempts within a lease, and time for a collector to be restarted.
pub(crate) const PATIENCE: Patience = Patience {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(5),
    limit: Duration::from_secs(60),
    look: Duration::from_secs(10),
};

/// A time without connection. It lasts until a tick has come.
#[derive(Debug)]
pub(super) struct Outage {
    patience: Patience,
    pause: Duration,
    end: Instant,
    /// What failed last.
    pub(super) failure: Failure,
    /// Whether there is a connection again, though no tick has come yet.
    pub(super) is_connected: bool,
}

impl Outage {
    fn new(patience: Patience, failure: Failure) -> Self {
        Self {
            patience,
            pause: patience.first,
            end: Instant::now() + patience.limit,
            failure,
            is_connected: false,
        }
    }

    /// How long to wait before the next attempt; none if it would be too late.
    fn next_pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.patience.longest);
        (Instant::now() + pause < self.end).then_some(pause)
    }
}

impl<O, E> Session<'_, O, E>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    /// Waits for a collector and lets `ticks` go on where they stopped. Ends at
    /// once if the user asks to stop.
    pub(super) async fn reconnect(
        &mut self,
        ticks: &mut Ticks,
        failure: Failure,
    ) -> Result<Course, Failure> {
        let is_remote = matches!(self.rpc.origin(), Origin::Remote(_));
        if !is_remote {
            return Err(failure);
        }
        // Another collector may give their ids to somebody else's watches.
        self.unheld.send_replace(Vec::new());
        let patience = self.order.patience;
        let mut outage = match self.outage.take() {
            Some(outage) => Outage {
                failure,
                is_connected: false,
                ..outage
            },
            None => {
                let limit = humantime::format_duration(patience.limit);
                let note = format!("{}; trying again for up to {limit}", failure.what());
                // If nobody takes it, there is nobody for the lines either, which
                // is noticed when they come.
                self.write(vec![note], "").await?;
                Outage::new(patience, failure)
            }
        };
        let course = self.wait_out(&mut outage, ticks).await;
        self.outage = Some(outage);
        course
    }

    async fn wait_out(
        &mut self,
        outage: &mut Outage,
        ticks: &mut Ticks,
    ) -> Result<Course, Failure> {
        let stop = self.stop;
        while let Some(pause) = outage.next_pause() {
            let attempt = async {
                sleep(pause).await;
                timeout_at(outage.end, self.resume(ticks)).await
            };
            // What an attempt leaves undone does not outlive its lease.
            let attempt = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Course::Ends),
                attempt = attempt => attempt,
            };
            match attempt {
                Ok(Err(failure)) if failure.is_lost() => outage.failure = failure,
                Ok(resumed) => {
                    outage.is_connected = true;
                    return resumed;
                }
                Err(_) => break,
            }
        }
        Err(outage.failure.clone().in_vain(outage.patience.limit))
    }

    /// One attempt.
    async fn resume(&mut self, ticks: &mut Ticks) -> Result<Course, Failure> {
        let last = ticks.last();
        let instance = self.rpc.info().await?.instance.unwrap_or_default();
        if ticks.is_of_other(lineage(&instance)) {
            return self.begin_anew(ticks).await;
        }
        // Another collector may have gone on with the watches, and with the sequence.
        let last = last.map(|last| Point {
            generation: instance.generation,
            ..last
        });
        self.watched.note_ended(&self.rpc.list().await?);
        let asked = self.order.subject.since().map(Since::Time);
        // There is no history of longer intervals.
        let since = last.map(Since::After).or(asked);
        match since.filter(|_| self.order.shape.interval.is_none()) {
            Some(since) => {
                let live = self.watched.live();
                ticks.resume(self.rpc, live, self.shape(), since).await?;
            }
            None => {
                self.watched.expect_no_more_of_ended();
                ticks.begin_anew(self.rpc, self.shape(), false).await?;
            }
        }
        self.notes.note_outage();
        let notes = self.make_anew(true).await?;
        self.tell(notes).await
    }

    /// Goes on with a collector that was restarted, which knows nothing of what
    /// was before.
    async fn begin_anew(&mut self, ticks: &mut Ticks) -> Result<Course, Failure> {
        if let Subject::Existing(_) = self.order.subject {
            return Err(Failure::new(
                "the collector was restarted, and the watches ended with it",
                "netio-client list shows the watches that there are now",
            ));
        }
        self.watched.note_restart();
        ticks.begin_anew(self.rpc, self.shape(), true).await?;
        let note = "the collector was restarted: totals begin anew".to_owned();
        self.write(vec![note], "").await?;
        let notes = self.make_anew(false).await?;
        self.tell(notes).await
    }

    /// Makes the watches anew that have ended, now that the ticks have told all of
    /// them, and lets the ticks tell of the new ones.
    pub(super) async fn renew_ended(&mut self, ticks: &mut Ticks) -> Result<Course, Failure> {
        if self.watched.to_be_made().is_empty() {
            return Ok(Course::GoesOn);
        }
        let notes = self.make_anew(true).await?;
        let course = self.tell(notes).await?;
        if let Some(last) = ticks.last()
            && course == Course::GoesOn
        {
            let (live, since) = (self.watched.live(), Since::After(last));
            ticks.resume(self.rpc, live, self.shape(), since).await?;
        }
        Ok(course)
    }

    /// Makes what is to be made anew; produces what there is to say about it, also
    /// of what could be made if that `is_news`.
    async fn make_anew(&mut self, is_news: bool) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        for (place, target) in self.watched.to_be_made() {
            let words = target::describe(&target);
            let life = wanted::lease(self.order.lease);
            let is_made = match self.rpc.watch(wanted::anew(&target, life)).await {
                Ok(watch) if self.watched.replace(place, &watch) => true,
                Ok(of_another) => {
                    self.rpc.end(of_another.watch_id).await?;
                    false
                }
                Err(failure) if failure.is_no_match() => {
                    self.watched.give_up(place);
                    false
                }
                Err(failure) => return Err(failure),
            };
            if !is_made {
                notes.push(format!("no more samples of {words}: it exited meanwhile"));
            } else if is_news {
                notes.push(format!(
                    "{words} is watched anew: its watch had ended, and its totals begin anew"
                ));
            }
        }
        Ok(notes)
    }
}
