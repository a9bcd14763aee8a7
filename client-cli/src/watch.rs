//! The loop of `watch`: makes one watch per process, shows every tick, and
//! ends its watches, whatever it was that ended the loop.
//!
//! It ends well when the processes have exited, the ticks asked for were
//! shown, the user asks to stop, or nobody reads any more; it fails when the
//! collector refuses or goes away.

use std::{collections::HashSet, time::Duration};

use tokio::{io::AsyncWrite, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Failure,
    json,
    model::Tick,
    output::{Output, Pipe},
    rpc::Rpc,
    table::Table,
    ticks::Ticks,
    watched::Watched,
};

/// How long ending the watches may take in all.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How long a last remark may take to be written.
const NOTE_LIMIT: Duration = Duration::from_millis(100);

/// How samples are shown.
#[derive(Debug)]
pub(crate) enum View {
    /// For people.
    Table(Table),
    /// For programs.
    Json,
}

impl View {
    fn lines(&mut self, tick: &Tick) -> Result<String, Failure> {
        match self {
            Self::Table(table) => Ok(table.lines(tick)),
            Self::Json => json::lines(tick),
        }
    }
}

/// What to watch, and for how long.
#[derive(Debug)]
pub(crate) struct Order {
    /// The processes.
    pub(crate) pids: Vec<u32>,
    /// Ticks to show; none: until something else ends it.
    pub(crate) count: Option<u64>,
}

impl Order {
    /// Each process once, in the order given.
    pub(crate) fn new(pids: &[u32], count: Option<u64>) -> Self {
        let mut known = HashSet::new();
        let pids = pids.iter().copied().filter(|pid| known.insert(*pid));
        Self {
            pids: pids.collect(),
            count,
        }
    }
}

/// Runs the loop to its end.
pub(crate) async fn run<O, E>(
    rpc: &Rpc,
    order: &Order,
    mut view: View,
    output: &mut Output<O, E>,
    stop: &CancellationToken,
) -> Result<(), Failure>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut watched = Watched::default();
    let shown = async {
        let mut ticks = Ticks::of_everything(rpc).await?;
        for pid in &order.pids {
            if stop.is_cancelled() {
                return Ok(());
            }
            watched.add(*pid, &rpc.watch(*pid).await?);
        }
        follow(
            rpc,
            &mut ticks,
            &mut watched,
            order.count,
            &mut view,
            output,
            stop,
        )
        .await
    };
    let shown = shown.await;
    let ended = timeout(FAREWELL_LIMIT, end_watches(rpc, &mut watched)).await;
    let left = watched.live();
    match (shown, ended.unwrap_or_else(|_| Err(too_slow()))) {
        // The first failure is the news, and often the cause of the other.
        (Err(failure), _) => Err(failure.leaving(&left, rpc.origin())),
        (Ok(()), Err(failure)) => {
            let note = failure.leaving(&left, rpc.origin()).to_string();
            // Standard error may be what stands still.
            let _ = timeout(NOTE_LIMIT, output.note(&note)).await;
            Ok(())
        }
        (Ok(()), Ok(())) => Ok(()),
    }
}

fn too_slow() -> Failure {
    Failure::new(
        format!("the collector did not end the watches within {FAREWELL_LIMIT:?}"),
        "check that netio-collector runs there and answers: netio-client info",
    )
}

async fn follow<O, E>(
    rpc: &Rpc,
    ticks: &mut Ticks,
    watched: &mut Watched,
    count: Option<u64>,
    view: &mut View,
    output: &mut Output<O, E>,
    stop: &CancellationToken,
) -> Result<(), Failure>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut left = count;
    loop {
        let tick = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            tick = ticks.next() => tick?,
        };
        let update = watched.advance(tick);
        if update.others {
            ticks.narrow(rpc, watched.live()).await;
        }
        let is_shown = !update.tick.samples.is_empty();
        let lines = view.lines(&update.tick)?;
        let writing = async {
            for note in notes(&update.tick, &update.lost) {
                output.note(&note).await;
            }
            output.lines(&lines).await
        };
        let pipe = tokio::select! {
            biased;
            pipe = writing => pipe?,
            // A terminal that stands still must not keep the user here.
            () = stop.cancelled() => return Ok(()),
        };
        if is_shown {
            left = left.map(|left| left.saturating_sub(1));
        }
        if pipe == Pipe::Closed || watched.all_over() || left == Some(0) {
            return Ok(());
        }
    }
}

fn notes(tick: &Tick, lost: &[u32]) -> Vec<String> {
    let mut notes = Vec::new();
    if tick.skipped_ticks > 0 {
        notes.push(format!(
            "{} tick(s) skipped, because the lines were not read in time; the totals are complete",
            tick.skipped_ticks
        ));
    }
    // An exit is told once. Whoever missed that tick learns no more of it.
    let why = if tick.skipped_ticks > 0 {
        "its process exited or its watch was ended, within a tick that was skipped"
    } else {
        "its watch was ended by somebody else with the same owner"
    };
    notes.extend(
        lost.iter()
            .map(|pid| format!("no more samples of pid {pid}: {why}")),
    );
    notes
}

/// Ends the watches that live; tells the last failure to do so, and leaves as
/// live in `watched` those of which it is not known that they ended.
async fn end_watches(rpc: &Rpc, watched: &mut Watched) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for watch_id in watched.live() {
        match rpc.end(watch_id.clone()).await {
            Ok(()) => watched.ended(&watch_id),
            Err(failure) => outcome = Err(failure),
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
