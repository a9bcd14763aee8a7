//! The stream of ticks: produces one [`Tick`] after the other, each sequence
//! once, none lost in silence.
//!
//! A watch can be named in a subscription only once it exists, and a tick may
//! fall in between, perhaps with the only sample of a process that exits at
//! once. So the stream is opened before the first watch is made, for
//! everything, and then changed for one of the watches wanted, which is what
//! holds their leases. A stream knows nothing of the ticks before it was opened,
//! so the wide one is read until the narrow one continues it without a gap.

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
    /// The stream that is to follow, beside the wide one until it can.
    narrow: Option<Narrow>,
    /// What was last asked for instead of everything; and whether it was given.
    asked: Vec<String>,
    is_narrow: bool,
    per_process: bool,
}

#[derive(Debug)]
struct Narrow {
    stream: Streaming<v1::SubscribeResponse>,
    /// Its first tick, once that is here.
    first: Option<Tick>,
}

impl Narrow {
    /// Whether nothing lies between the tick before and its first.
    fn continues(&self, last: Option<u64>) -> bool {
        match (last, &self.first) {
            (Some(last), Some(first)) => gap(last, first.sequence) == 0,
            _ => false,
        }
    }
}

impl Ticks {
    /// Subscribes to every watch of the collector.
    pub(crate) async fn of_everything(rpc: &Rpc, per_process: bool) -> Result<Self, Failure> {
        Ok(Self {
            stream: rpc.subscribe(Vec::new(), per_process).await?,
            origin: rpc.origin().clone(),
            last: None,
            narrow: None,
            asked: Vec::new(),
            is_narrow: false,
            per_process,
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
        if let Ok(stream) = rpc.subscribe(watch_ids, self.per_process).await {
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
                if tick.sequence <= last {
                    continue;
                }
                tick.skipped_ticks = gap(last, tick.sequence);
            }
            self.last = Some(tick.sequence);
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
        .ok_or_else(|| {
            Failure::new(
                format!("the collector {origin} ended the stream"),
                "repeat the command",
            )
        })?;
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
