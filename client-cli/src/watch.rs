//! The loop of `watch`: makes one watch per target, shows every tick, and ends
//! its watches, whatever it was that ended the loop.
//!
//! It ends well when no watch is left (their processes have exited), the ticks
//! asked for were shown, the user asks to stop, or nobody reads any more; it
//! fails when the collector refuses or goes away.
//!
//! The watches have leases, so that they end even if this process is killed.
//! The stream of ticks holds the leases once it names the watches; until then,
//! or where it may not, [`renewal`] keeps them.

use std::time::Duration;

use netio::v1;
use tokio::{io::AsyncWrite, sync::watch::Sender, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Failure,
    json,
    model::Tick,
    output::{Output, Pipe},
    rpc::Rpc,
    table::Table,
    target,
    ticks::Ticks,
    wanted::{self, Wanted},
    watched::Watched,
};

mod notes;
mod renewal;

use notes::Notes;

/// How long a watch lives after this process is gone without a word.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Renewals within a lease, so that one that is late or lost costs nothing.
const RENEWALS_PER_LEASE: u32 = 3;
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

    /// A single process is shown in fewer columns than a watch of several.
    fn make_room(&mut self, target: &v1::Target, watch: &v1::Watch) {
        if let Self::Table(table) = self
            && (target::is_rule(target) || watch.follow_children)
        {
            table.make_room(&target::describe(target));
        }
    }
}

/// What to watch, and for how long.
#[derive(Debug)]
pub(crate) struct Order {
    /// The processes.
    pub(crate) wanted: Wanted,
    /// How long the watches live without this process.
    pub(crate) lease: Duration,
    /// Whether each process's part is shown.
    pub(crate) per_process: bool,
    /// Ticks to show; none: until something else ends it.
    pub(crate) count: Option<u64>,
}

/// Runs the loop to its end.
pub(crate) async fn run<O, E>(
    rpc: &Rpc,
    order: &Order,
    view: View,
    output: &mut Output<O, E>,
    stop: &CancellationToken,
) -> Result<(), Failure>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let unheld = Sender::new(Vec::new());
    let keep = renewal::keep(rpc, unheld.subscribe(), order.lease / RENEWALS_PER_LEASE);
    let mut session = Session {
        rpc,
        order,
        view,
        output,
        stop,
        watched: Watched::default(),
        unheld,
        notes: Notes::default(),
    };
    let shown = tokio::select! {
        shown = session.show() => shown,
        never = keep => match never {},
    };
    let Session {
        output,
        mut watched,
        ..
    } = session;
    let ended = timeout(FAREWELL_LIMIT, end_watches(rpc, &mut watched)).await;
    let leaving = |failure: Failure| failure.leaving(&watched.live(), order.lease, rpc.origin());
    match (shown, ended.unwrap_or_else(|_| Err(too_slow()))) {
        // The first failure is the news, and often the cause of the other.
        (Err(failure), _) => Err(leaving(failure)),
        (Ok(()), Err(failure)) => {
            let note = leaving(failure).to_string();
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

/// One run of the loop.
struct Session<'a, O, E> {
    rpc: &'a Rpc,
    order: &'a Order,
    view: View,
    output: &'a mut Output<O, E>,
    stop: &'a CancellationToken,
    watched: Watched,
    /// The watches whose leases no stream holds.
    unheld: Sender<Vec<String>>,
    notes: Notes,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    Ends,
}

impl<O, E> Session<'_, O, E>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    async fn show(&mut self) -> Result<(), Failure> {
        let mut ticks = Ticks::of_everything(self.rpc, self.order.per_process).await?;
        let notes = self.make().await?;
        if self.write(notes, "").await? == Course::Ends {
            return Ok(());
        }
        let mut left = self.order.count;
        while !self.stop.is_cancelled() {
            self.hold(&mut ticks).await;
            let tick = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                tick = ticks.next() => tick?,
            };
            let update = self.watched.advance(tick);
            let notes = self.notes.about(&update);
            let lines = self.view.lines(&update.tick)?;
            let course = self.write(notes, &lines).await?;
            if !update.tick.samples.is_empty() {
                left = left.map(|left| left.saturating_sub(1));
            }
            if course == Course::Ends || self.watched.all_over() || left == Some(0) {
                break;
            }
        }
        Ok(())
    }

    /// Makes the watches, until the user asks to stop; produces what there is to
    /// say about them.
    async fn make(&mut self) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        let life = wanted::lease(self.order.lease);
        for (target, request) in self.order.wanted.requests(life) {
            if self.stop.is_cancelled() {
                break;
            }
            let watch = self.rpc.watch(request).await?;
            self.watched.add(target, &watch);
            self.unheld.send_replace(self.watched.live());
            self.view.make_room(target, &watch);
            notes.extend(notes::several(target, &watch));
        }
        Ok(notes)
    }

    /// Lets the stream hold the leases, or tells which are to be renewed.
    async fn hold(&mut self, ticks: &mut Ticks) {
        let live = self.watched.live();
        let is_held = ticks.narrow(self.rpc, live.clone()).await;
        let unheld = if is_held { Vec::new() } else { live };
        self.unheld.send_replace(unheld);
    }

    async fn write(&mut self, notes: Vec<String>, lines: &str) -> Result<Course, Failure> {
        let writing = async {
            for note in notes {
                self.output.note(&note).await;
            }
            self.output.lines(lines).await
        };
        let pipe = tokio::select! {
            biased;
            pipe = writing => pipe?,
            // A terminal that stands still must not keep the user here.
            () = self.stop.cancelled() => Pipe::Closed,
        };
        Ok(match pipe {
            Pipe::Open => Course::GoesOn,
            Pipe::Closed => Course::Ends,
        })
    }
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
