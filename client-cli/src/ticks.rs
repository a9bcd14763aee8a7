//! The stream of ticks: produces one [`Tick`] after the other, each sequence
//! once, none lost in silence.
//!
//! A watch can be named in a subscription only once it exists, and a tick may
//! fall in between, perhaps with the only sample of a process that exits at
//! once. So the stream is opened before the first watch is made, for
//! everything, and then changed for one of the watches wanted, which is what
//! holds their leases. A stream knows nothing of the ticks before it was opened,
//! so the wide one is read until the narrow one continues it without a gap.
//!
//! A stream that broke off is resumed where the collector's history still has
//! what follows; where it has not, the tick after the gap tells how many are
//! missing. A message may sum up several ticks: what counts is then where its
//! first tick follows.

use std::time::Duration;

use jiff::Timestamp;
use netio::v1::{self, subscribe_request};
use tonic::Streaming;

use crate::{
    failure::{Failure, Origin},
    model::{Point, Tick},
    rpc::Rpc,
};

/// How often the oldest tick of the history may be gone by the time that it is
/// asked for.
const HISTORY_TRIES: usize = 3;

/// What a stream is to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Also each process's part.
    pub(crate) per_process: bool,
    /// Sums over so long; none: every tick.
    pub(crate) interval: Option<Duration>,
    /// Not the watches that were idle.
    pub(crate) only_changed: bool,
}

/// Where a stream is to begin, if not with the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// After this tick.
    After(Point),
    /// With the first that was read at this time, not before 1970, or later.
    Time(Timestamp),
}

impl Shape {
    fn request(self, watch_ids: Vec<String>, since: Option<Since>) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            watch_ids,
            per_process: self.per_process,
            // Only one of centuries would not fit.
            interval: self
                .interval
                .and_then(|it| prost_types::Duration::try_from(it).ok()),
            only_changed: self.only_changed,
            since: since.map(subscribe_request::Since::from),
        }
    }
}

impl From<Since> for subscribe_request::Since {
    fn from(since: Since) -> Self {
        match since {
            Since::After(Point {
                generation,
                sequence,
            }) => Self::After(v1::TickPoint {
                generation,
                sequence,
            }),
            Since::Time(time) => Self::Time(prost_types::Timestamp {
                seconds: time.as_second(),
                nanos: time.subsec_nanosecond(),
            }),
        }
    }
}

/// An open subscription.
#[derive(Debug)]
pub(crate) struct Ticks {
    stream: Streaming<v1::SubscribeResponse>,
    origin: Origin,
    shape: Shape,
    /// The tick before; none before the first.
    last: Option<Point>,
    /// Of the collectors that it may be of; the tick before was of one of them.
    lineage: Option<u64>,
    /// The stream that is to follow, beside the wide one until it can.
    narrow: Option<Narrow>,
    /// What was last asked for instead of everything; and whether it was given.
    asked: Vec<String>,
    is_narrow: bool,
}

#[derive(Debug)]
struct Narrow {
    stream: Streaming<v1::SubscribeResponse>,
    /// Its first tick, once that is here.
    first: Option<Tick>,
}

impl Narrow {
    /// Whether nothing lies between the tick before and its first.
    fn continues(&self, last: Option<Point>) -> bool {
        match (last, &self.first) {
            (Some(last), Some(first)) => gap(last.sequence, first.first()) == 0,
            _ => false,
        }
    }
}

impl Ticks {
    /// Subscribes to every watch of the collector.
    pub(crate) async fn of_everything(rpc: &Rpc, shape: Shape) -> Result<Self, Failure> {
        Self::open(rpc, shape, Vec::new(), None).await
    }

    /// Subscribes to these watches, or, if none is named, to all.
    pub(crate) async fn open(
        rpc: &Rpc,
        shape: Shape,
        watch_ids: Vec<String>,
        since: Option<Since>,
    ) -> Result<Self, Failure> {
        let request = shape.request(watch_ids.clone(), since);
        Ok(Self {
            stream: rpc.subscribe(request).await?,
            origin: rpc.origin().clone(),
            shape,
            last: None,
            lineage: None,
            narrow: None,
            is_narrow: !watch_ids.is_empty(),
            asked: watch_ids,
        })
    }

    /// The tick before; none before the first.
    pub(crate) fn last(&self) -> Option<Point> {
        self.last
    }

    /// Whether the tick before was of a collector of another lineage.
    pub(crate) fn is_of_other(&self, lineage: u64) -> bool {
        self.lineage.is_some_and(|last| last != lineage)
    }

    /// Begins anew with the next tick, whatever it is. What there was is of
    /// another run of the collector if it `is_restarted`, and else the next tick
    /// tells how many are missing.
    pub(crate) async fn begin_anew(
        &mut self,
        rpc: &Rpc,
        shape: Shape,
        is_restarted: bool,
    ) -> Result<(), Failure> {
        let opened = Self::of_everything(rpc, shape).await?;
        let last = self.last.filter(|_| !is_restarted);
        let lineage = self.lineage.filter(|_| !is_restarted);
        *self = Self {
            last,
            lineage,
            ..opened
        };
        Ok(())
    }

    /// Goes on from `since` with a stream of these watches; of everything where
    /// one of the watches wanted was refused before. Where the history does not
    /// reach so far, goes on with the oldest tick that it has.
    pub(crate) async fn resume(
        &mut self,
        rpc: &Rpc,
        watch_ids: Vec<String>,
        shape: Shape,
        mut since: Since,
    ) -> Result<(), Failure> {
        let watch_ids = if self.is_narrow {
            watch_ids
        } else {
            Vec::new()
        };
        let mut opened = Self::open(rpc, shape, watch_ids.clone(), Some(since)).await;
        for _ in 1..HISTORY_TRIES {
            let Err(failure) = opened else { break };
            since = Since::After(self.before_oldest(failure, since)?);
            opened = Self::open(rpc, shape, watch_ids.clone(), Some(since)).await;
        }
        let (last, lineage) = (self.last, self.lineage);
        *self = Self {
            last,
            lineage,
            ..opened?
        };
        Ok(())
    }

    /// What comes before the oldest tick of the history, if the failure is that
    /// an older one was asked for.
    fn before_oldest(&self, failure: Failure, asked: Since) -> Result<Point, Failure> {
        let Some(oldest) = failure.oldest() else {
            return Err(failure);
        };
        if let Since::After(asked) = asked
            && asked.generation != oldest.generation
        {
            return Err(Failure::of_restart(&self.origin));
        }
        Ok(Point {
            sequence: oldest.sequence.saturating_sub(1),
            ..oldest
        })
    }

    /// Subscribes to these watches alone, from a coming tick on. Where it is
    /// refused (a watch has just ended, there are too many ids or subscribers)
    /// the stream of everything goes on, which costs traffic but no sample; it
    /// can be asked again for other watches. Once it is given, it stays.
    ///
    /// Produces whether a stream that names the watches is open.
    pub(crate) async fn narrow(&mut self, rpc: &Rpc, watch_ids: Vec<String>) -> bool {
        if self.is_narrow || watch_ids.is_empty() || watch_ids == self.asked {
            return self.is_narrow;
        }
        self.asked.clone_from(&watch_ids);
        if let Ok(stream) = rpc.subscribe(self.shape.request(watch_ids, None)).await {
            self.is_narrow = true;
            self.narrow = Some(Narrow {
                stream,
                first: None,
            });
        }
        self.is_narrow
    }

    /// The next tick. May be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Tick, Failure> {
        loop {
            let mut tick = self.receive().await?;
            // In the first message there is nothing to compare with, and a
            // stream counts only its own skips, not those between two streams.
            if let Some(last) = self.last {
                if self.is_of_other(tick.lineage) {
                    return Err(Failure::of_restart(&self.origin));
                }
                if tick.sequence <= last.sequence {
                    continue;
                }
                tick.skipped_ticks = gap(last.sequence, tick.first());
            }
            self.last = Some(tick.point());
            self.lineage = Some(tick.lineage);
            tick.omits_idle = self.shape.only_changed;
            return Ok(tick);
        }
    }

    /// The next message, of the stream whose turn it is.
    async fn receive(&mut self) -> Result<Tick, Failure> {
        if let Some(narrow) = &mut self.narrow
            && narrow.first.is_none()
        {
            narrow.first = Some(read(&mut narrow.stream, &self.origin).await?);
        }
        let last = self.last;
        match self.narrow.take_if(|narrow| narrow.continues(last)) {
            Some(Narrow {
                stream,
                first: Some(first),
            }) => {
                self.stream = stream;
                Ok(first)
            }
            _ => read(&mut self.stream, &self.origin).await,
        }
    }
}

async fn read(
    stream: &mut Streaming<v1::SubscribeResponse>,
    origin: &Origin,
) -> Result<Tick, Failure> {
    let message = stream
        .message()
        .await
        .map_err(|status| Failure::of_stream(&status, origin))?
        .ok_or_else(|| Failure::of_end(origin))?;
    Tick::try_from(message).map_err(|broken| Failure::of_answer(broken, origin))
}

/// Ticks between the last one and this.
fn gap(last: u64, sequence: u64) -> u64 {
    sequence.saturating_sub(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_in_the_sequence() {
        assert_eq!(gap(8, 9), 0);
        assert_eq!(gap(5, 9), 3);
        assert_eq!(gap(9, 9), 0);
        assert_eq!(gap(u64::MAX, 1), 0);
    }
}
