//! The stream of ticks: produces one [`Tick`] after the other, none lost in
//! silence.
//!
//! A watch can be named in a subscription only once it exists, and a tick may
//! fall in between, perhaps with the only sample of a process that exits at
//! once. So the stream is opened before the first watch is made, for
//! everything, and changed for one of the watches wanted right after a tick,
//! when the next is furthest away.

use netio::v1;
use tonic::Streaming;

use crate::{
    failure::{Failure, Origin},
    model::Tick,
    rpc::Rpc,
};

/// An open subscription.
#[derive(Debug)]
pub(crate) struct Ticks {
    stream: Streaming<v1::SubscribeResponse>,
    origin: Origin,
    /// The sequence of the tick before; none before the first.
    last: Option<u64>,
    scope: Scope,
}

#[derive(Debug, PartialEq, Eq)]
enum Scope {
    Everything,
    /// Narrowed, or tried in vain to.
    Settled,
}

impl Ticks {
    /// Subscribes to every watch of the collector.
    pub(crate) async fn of_everything(rpc: &Rpc) -> Result<Self, Failure> {
        Ok(Self {
            stream: rpc.subscribe(Vec::new()).await?,
            origin: rpc.origin().clone(),
            last: None,
            scope: Scope::Everything,
        })
    }

    /// Subscribes to these watches alone; to be called right after a tick.
    /// Does so once: where it is refused (a watch has just ended, there are
    /// too many ids) the stream of everything goes on, which costs traffic
    /// but no sample.
    pub(crate) async fn narrow(&mut self, rpc: &Rpc, watch_ids: Vec<String>) {
        if self.scope == Scope::Settled || watch_ids.is_empty() {
            return;
        }
        self.scope = Scope::Settled;
        if let Ok(stream) = rpc.subscribe(watch_ids).await {
            self.stream = stream;
        }
    }

    /// The next tick. May be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Tick, Failure> {
        let message = self
            .stream
            .message()
            .await
            .map_err(|status| Failure::of_stream(&status, &self.origin))?
            .ok_or_else(|| {
                Failure::new(
                    format!("the collector {} ended the stream", self.origin),
                    "repeat the command",
                )
            })?;
        let mut tick =
            Tick::try_from(message).map_err(|broken| Failure::of_answer(broken, &self.origin))?;
        // A stream counts its own skips only, so not those between two streams.
        let gap = gap(self.last, tick.sequence);
        tick.skipped_ticks = tick.skipped_ticks.max(gap);
        self.last = Some(tick.sequence);
        Ok(tick)
    }
}

/// Ticks between the last one and this; none before the first.
fn gap(last: Option<u64>, sequence: u64) -> u64 {
    last.map_or(0, |last| sequence.saturating_sub(last.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_in_the_sequence() {
        assert_eq!(gap(None, 9), 0);
        assert_eq!(gap(Some(8), 9), 0);
        assert_eq!(gap(Some(5), 9), 3);
        assert_eq!(gap(Some(9), 9), 0);
        assert_eq!(gap(Some(u64::MAX), 1), 0);
    }
}
