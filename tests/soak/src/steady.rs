//! The clients that behave, on a thread of their own: what happens to them shall be the
//! collector's doing.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use netio::v1::{SubscribeRequest, SubscribeResponse};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    PATIENCE, Result, STEADY,
    site::{Client, Site, Way},
    traffic::Truth,
};

/// Enough that it is never in the way.
const WINDOW: u32 = 1 << 20;
/// What all processes send in a second, at the least.
const LEAST_BYTES: u64 = 10_000;

/// What they were told, in the end.
pub(crate) struct Told {
    /// By each.
    pub(crate) ticks: u64,
    /// To each.
    pub(crate) bytes: u64,
}

impl Told {
    /// Fails if that is next to nothing: a tick is due each second, and each process
    /// sends many times in one.
    pub(crate) fn judge(&self, seconds: u64) -> Result {
        let least = seconds / 2;
        if self.ticks < least || self.bytes < self.ticks * LEAST_BYTES {
            let Self { ticks, bytes } = self;
            return Err(format!("no load: {ticks} ticks and {bytes} bytes").into());
        }
        Ok(())
    }
}

/// What one of them has been told.
#[derive(Default)]
struct Books {
    ticks: u64,
    last: Option<u64>,
    /// By watch.
    totals: BTreeMap<String, u64>,
}

/// See the module.
pub(crate) struct Steady {
    /// The time after which all was sent, once it is known.
    settle: watch::Sender<Option<SystemTime>>,
    thread: Option<JoinHandle<Result<Vec<Books>>>>,
    watches: Vec<(String, u32)>,
    begun: Arc<AtomicU64>,
}

impl Steady {
    pub(crate) fn start(site: &Arc<Site>, watches: &[(String, u32)]) -> Result<Self> {
        let (settle, settled) = watch::channel(None);
        let begun = Arc::new(AtomicU64::new(0));
        let ids: Vec<String> = watches.iter().map(|(id, _)| id.clone()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::spawn({
            let (site, begun) = (Arc::clone(site), Arc::clone(&begun));
            move || runtime.block_on(read_all(&site, ids, &settled, &begun))
        });
        Ok(Self {
            settle,
            thread: Some(thread),
            watches: watches.to_vec(),
            begun,
        })
    }

    /// Waits until each has had a tick.
    pub(crate) async fn all_have_begun(&mut self) -> Result {
        while self.begun.load(Ordering::Relaxed) < STEADY as u64 {
            self.must_be_well()?;
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Fails with what went wrong, if something did.
    pub(crate) fn must_be_well(&mut self) -> Result {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.ended()?;
            return Err("the clients that behave have ended early".into());
        }
        Ok(())
    }

    /// Waits for the ticks that hold all that was sent, and compares.
    pub(crate) async fn settle(&mut self, truth: &Truth) -> Result<Told> {
        self.settle.send_replace(Some(SystemTime::now()));
        while self.thread.as_ref().is_some_and(|it| !it.is_finished()) {
            sleep(Duration::from_millis(50)).await;
        }
        let all = self.ended()?;
        let mut told = Told {
            ticks: u64::MAX,
            bytes: truth.sent.values().sum(),
        };
        for books in &all {
            told.ticks = told.ticks.min(books.ticks);
            for (id, pid) in &self.watches {
                let (sent, counted) = (truth.sent.get(pid), books.totals.get(id));
                if sent != counted {
                    return Err(format!("{id}: sent {sent:?} bytes, told {counted:?}").into());
                }
            }
        }
        Ok(told)
    }

    fn ended(&mut self) -> Result<Vec<Books>> {
        let thread = self.thread.take().ok_or("they have ended before")?;
        let ended = thread.join();
        ended.map_err(|_| "the clients that behave panicked")?
    }
}

async fn read_all(
    site: &Arc<Site>,
    ids: Vec<String>,
    settled: &watch::Receiver<Option<SystemTime>>,
    begun: &Arc<AtomicU64>,
) -> Result<Vec<Books>> {
    let mut readers = JoinSet::new();
    for number in 0..STEADY {
        let client = site.client(Way::orderly(number % 2 == 1), WINDOW).await?;
        let (begun, settled) = (Arc::clone(begun), settled.clone());
        readers.spawn(read(client, ids.clone(), settled, begun));
    }
    let mut all = Vec::new();
    while let Some(ended) = readers.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}

/// Reads until the second tick after all was sent.
async fn read(
    mut client: Client,
    ids: Vec<String>,
    settled: watch::Receiver<Option<SystemTime>>,
    begun: Arc<AtomicU64>,
) -> Result<Books> {
    let request = SubscribeRequest::new(ids.clone());
    let mut ticks = client.subscribe(request).await?.into_inner();
    let mut books = Books::default();
    let mut after = 0;
    while after < 2 {
        let tick = timeout(PATIENCE, ticks.message()).await??;
        let tick = tick.ok_or("the stream has ended")?;
        let time = SystemTime::try_from(tick.time.ok_or("a tick without time")?)?;
        after += usize::from(settled.borrow().is_some_and(|sent| time > sent));
        books.enter(tick, &ids)?;
        if books.ticks == 1 {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(books)
}

impl Books {
    /// Fails if the tick is not what must follow.
    fn enter(&mut self, tick: SubscribeResponse, ids: &[String]) -> Result {
        let follows = self.last.is_none_or(|last| tick.sequence == last + 1);
        if !follows || tick.skipped_ticks > 0 {
            return Err(format!(
                "tick {} after {:?}, {} skipped",
                tick.sequence, self.last, tick.skipped_ticks
            )
            .into());
        }
        let missed = tick.missed_events.unwrap_or_default();
        if missed.recursion.unwrap_or(0) > 0 || missed.kretprobe.unwrap_or(0) > 0 {
            return Err(format!("{missed:?}").into());
        }
        if tick.samples.len() != ids.len() {
            return Err(format!("{} samples in {}", tick.samples.len(), tick.sequence).into());
        }
        for sample in tick.samples {
            let before = self.totals.get(&sample.watch_id).copied();
            // The first interval may have begun before the stream.
            let is_right = before
                .is_none_or(|before| before + sample.sent_bytes == sample.sent_bytes_total)
                && sample.received_bytes_total == 0;
            if !is_right {
                return Err(format!("{sample:?} after {before:?}").into());
            }
            self.totals.insert(sample.watch_id, sample.sent_bytes_total);
        }
        self.last = Some(tick.sequence);
        self.ticks += 1;
        Ok(())
    }
}
