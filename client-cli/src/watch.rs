//! The loop of `watch`: makes one watch per target, or finds those that exist,
//! shows every tick, and ends the watches that it made, whatever it was that
//! ended the loop.
//!
//! It ends well when no watch is left (their processes have exited), the ticks
//! asked for were shown, the user asks to stop, or nobody reads any more; it
//! fails when the collector refuses, or goes away for longer than [`outage`]
//! waits.
//!
//! The watches have leases, so that they end even if this process is killed.
//! The stream of ticks holds the leases once it names the watches; until then,
//! or where it may not, [`renewal`] keeps them.

use std::time::Duration;

use jiff::Timestamp;
use netio::v1;
use tokio::{
    io::AsyncWrite,
    sync::watch::Sender,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Failure,
    json,
    model::Tick,
    output::{Output, Pipe},
    rpc::Rpc,
    table::Table,
    target,
    ticks::{Shape, Since, Ticks},
    wanted::{self, Wanted},
    watched::{Update, Watched},
};

mod existing;
mod notes;
mod outage;
mod renewal;

pub(crate) use existing::Existing;
use notes::Notes;
use outage::Outage;
pub(crate) use outage::{PATIENCE, Patience};

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
        if target::is_rule(target) || watch.follow_children {
            self.make_room_for(&target::describe(target));
        }
    }

    fn make_room_for(&mut self, words: &str) {
        if let Self::Table(table) = self {
            table.make_room(words);
        }
    }
}

/// What is to be shown.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// Watches that are made for it.
    Made(Wanted),
    /// Watches that exist.
    Existing(Existing),
}

impl Subject {
    /// From when on, if not from now on.
    fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Made(_) => None,
            Self::Existing(existing) => existing.since,
        }
    }
}

/// What to watch, and for how long.
#[derive(Debug)]
pub(crate) struct Order {
    /// The watches.
    pub(crate) subject: Subject,
    /// How long those that are made live without this process.
    pub(crate) lease: Duration,
    /// What of them is shown.
    pub(crate) shape: Shape,
    /// Ticks to show; none: until something else ends it.
    pub(crate) count: Option<u64>,
    /// How long is tried again what may succeed.
    pub(crate) patience: Patience,
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
        watched: Watched::new(order.shape.only_changed),
        unheld,
        notes: Notes::new(matches!(order.subject, Subject::Existing(_))),
        outage: None,
        left: order.count,
        since_asked: order.subject.since(),
        next_look: Instant::now() + order.patience.look,
    };
    let shown = tokio::select! {
        shown = session.show() => shown,
        never = keep => match never {},
    };
    let Session {
        output,
        mut watched,
        outage,
        ..
    } = session;
    let ended = match outage {
        // There is nobody to end them.
        Some(outage) if !outage.is_connected => Ok(match watched.own().is_empty() {
            true => Ok(()),
            false => Err(outage.failure),
        }),
        _ => timeout(FAREWELL_LIMIT, end_watches(rpc, &mut watched)).await,
    };
    let leaving = |failure: Failure| failure.leaving(&watched.own(), order.lease, rpc.origin());
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
    /// While the connection is lost, and until the first tick after that.
    outage: Option<Outage>,
    /// Ticks that are still to be shown, if they are counted.
    left: Option<u64>,
    /// From when on the history is to be, until it is known whether it is.
    since_asked: Option<Timestamp>,
    /// When to look whether the watches exist.
    next_look: Instant,
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
        let (mut ticks, notes) = match &self.order.subject {
            Subject::Made(wanted) => {
                let ticks = Ticks::of_everything(self.rpc, self.order.shape).await?;
                (ticks, self.make(wanted).await?)
            }
            Subject::Existing(existing) => {
                let stop = self.stop;
                tokio::select! {
                    found = self.find(existing) => found?,
                    () = stop.cancelled() => return Ok(()),
                }
            }
        };
        let mut course = self.write(notes, "").await?;
        while course == Course::GoesOn && !self.stop.is_cancelled() {
            self.hold(&mut ticks).await;
            let tick = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                tick = ticks.next() => Some(tick),
                () = sleep_until(self.next_look), if self.order.shape.only_changed => None,
            };
            let step = match tick {
                Some(Ok(tick)) => self.show_tick(tick, &mut ticks).await,
                Some(Err(failure)) => Err(failure),
                None => self.look().await,
            };
            course = match step {
                Err(failure) if failure.is_lost() => self.reconnect(&mut ticks, failure).await?,
                step => step?,
            };
        }
        Ok(())
    }

    /// Shows a tick, and makes those watches anew of which it shows that they
    /// have to be.
    async fn show_tick(&mut self, tick: Tick, ticks: &mut Ticks) -> Result<Course, Failure> {
        self.outage = None;
        let asked = self.since_asked.take();
        let mut notes: Vec<String> = asked
            .and_then(|asked| notes::short_history(asked, &tick))
            .into_iter()
            .collect();
        let update = self.watched.advance(tick);
        notes.extend(self.notes.about(&update));
        let lines = self.view.lines(&update.tick)?;
        let course = self.write(notes, &lines).await?;
        if let Some(watch_id) = update.unknown.first() {
            return Err(existing::unknown(watch_id));
        }
        Ok(match course {
            Course::GoesOn if !self.is_done(&update) => self.renew_ended(ticks).await?,
            _ => Course::Ends,
        })
    }

    fn is_done(&mut self, update: &Update) -> bool {
        if !update.tick.samples.is_empty() {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        self.watched.all_over() || self.left == Some(0)
    }

    /// Looks whether the watches exist: where idle ones are left out, ticks do not
    /// tell. That the collector does not answer is noticed by the stream.
    async fn look(&mut self) -> Result<Course, Failure> {
        self.next_look = Instant::now() + self.order.patience.look;
        let Ok(list) = self.rpc.list().await else {
            return Ok(Course::GoesOn);
        };
        let lost = self.watched.compare(&list);
        let notes = lost.iter().map(|it| self.notes.no_more(it, false));
        self.tell(notes.collect()).await
    }

    /// Says what there is to say, and goes on if a watch is left.
    async fn tell(&mut self, notes: Vec<String>) -> Result<Course, Failure> {
        let course = self.write(notes, "").await?;
        Ok(if self.watched.all_over() {
            Course::Ends
        } else {
            course
        })
    }

    /// Makes the watches, until the user asks to stop; produces what there is to
    /// say about them.
    async fn make(&mut self, wanted: &Wanted) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        let life = wanted::lease(self.order.lease);
        for (target, request) in wanted.requests(life) {
            if self.stop.is_cancelled() {
                break;
            }
            let watch = self.rpc.watch(request).await?;
            self.watched.add(target, &watch);
            self.unheld.send_replace(self.watched.own());
            self.view.make_room(target, &watch);
            notes.extend(notes::several(target, &watch));
        }
        Ok(notes)
    }

    /// Finds the watches that exist; produces their ticks, and what there is to
    /// say about them.
    async fn find(&mut self, existing: &Existing) -> Result<(Ticks, Vec<String>), Failure> {
        let found = existing.find(self.rpc.list().await?)?;
        for watch in &found.watches {
            self.watched.add_found(watch);
            let target = watch.target.clone().unwrap_or_default();
            self.view.make_room(&target, watch);
        }
        if !found.past.is_empty() {
            // How far the history goes: whatever is in it is in this or before. No
            // call tells it, so this waits for a tick.
            let mut newest = Ticks::of_everything(self.rpc, Shape::default()).await?;
            let end = newest.next().await?.sequence;
            for watch_id in &found.past {
                self.watched.add_past(watch_id, end);
                self.view.make_room_for(&format!("watch {watch_id}"));
            }
        }
        let since = existing.since.map(Since::Time);
        let live = self.watched.live();
        let ticks = Ticks::open(self.rpc, self.shape(), live, since).await?;
        Ok((ticks, found.notes))
    }

    /// What the stream is to tell: of a watch that is in no list any more it is
    /// to be seen where it ends.
    fn shape(&self) -> Shape {
        Shape {
            only_changed: self.order.shape.only_changed && !self.watched.needs_every_sample(),
            ..self.order.shape
        }
    }

    /// Lets the stream hold the leases, or tells which are to be renewed.
    async fn hold(&mut self, ticks: &mut Ticks) {
        let is_held = ticks.narrow(self.rpc, self.watched.live()).await;
        let unheld = if is_held {
            Vec::new()
        } else {
            self.watched.own()
        };
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
    for watch_id in watched.own() {
        match rpc.end(watch_id.clone()).await {
            Ok(()) => watched.ended(&watch_id),
            Err(failure) => outcome = Err(failure),
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
