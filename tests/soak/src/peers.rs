//! The clients that do not behave. Each lives one life after the other: it connects,
//! does some of what a client can do, and leaves, often in the middle.
//!
//! What the collector refuses, or ends, is counted and no failure: it may. What it says
//! must be right, though: a stream that tells a gap wrongly is a failure.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use netio::v1::{
    GetCollectorInfoRequest, ListWatchesRequest, SubscribeRequest, SubscribeResponse, Target,
    UnwatchRequest, WatchRequest, subscribe_request::Since, unwatch_request::Selector,
    watch_request::Life,
};
use tokio::{
    io::AsyncWriteExt as _,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{
    PATIENCE, Result,
    random::Random,
    raw_http2,
    site::{Client, Site, Way},
    traffic::Pids,
};

/// Connections that are being made at a time.
const CONNECTING: usize = 32;
/// The longest that a life stands still.
const LONGEST: Duration = Duration::from_secs(15);
/// Less than a message, and more than any.
const WINDOWS: [u32; 3] = [64, 2_048, 1 << 20];
/// Leases, in seconds.
const LEASES: [u64; 3] = [1, 2, 3];

/// What they did.
#[derive(Default)]
struct Deeds {
    lives: AtomicU64,
    resets: AtomicU64,
    mute: AtomicU64,
    stalls: AtomicU64,
    streams: AtomicU64,
    ticks: AtomicU64,
    skipped: AtomicU64,
    watches: AtomicU64,
    unwatches: AtomicU64,
    /// What calls ended with, by reason or code.
    ends: Mutex<BTreeMap<String, u64>>,
}

/// What went wrong in a life.
enum Trouble {
    /// The connection or a call ended: that may be.
    Ended(String),
    /// The collector told something that is not so.
    Wrong(String),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        Self::Ended(info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason))
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Ended(error.kind().to_string())
    }
}

type Lived<T = ()> = std::result::Result<T, Trouble>;

/// See the module.
pub(crate) struct Peers {
    tasks: JoinSet<()>,
    deeds: Arc<Deeds>,
    wrong: Arc<Mutex<Option<String>>>,
}

impl Peers {
    pub(crate) fn start(clients: u32, seed: u64, site: &Arc<Site>, pids: Pids) -> Self {
        let mut tasks = JoinSet::new();
        let deeds = Arc::<Deeds>::default();
        let wrong = Arc::<Mutex<Option<String>>>::default();
        let places = Arc::new(Semaphore::new(CONNECTING));
        for number in 0..clients {
            let mut peer = Peer {
                random: Random::new(seed, number.into()),
                site: Arc::clone(site),
                pids: pids.clone(),
                places: Arc::clone(&places),
                deeds: Arc::clone(&deeds),
            };
            let wrong = Arc::clone(&wrong);
            tasks.spawn(async move {
                loop {
                    match peer.live().await {
                        Ok(()) => {}
                        Err(Trouble::Ended(how)) => peer.deeds.ended(how),
                        Err(Trouble::Wrong(what)) => {
                            let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                            wrong.get_or_insert(what);
                            return;
                        }
                    }
                    // However quickly lives end, they do not spin.
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
        Self {
            tasks,
            deeds,
            wrong,
        }
    }

    pub(crate) fn must_be_well(&self) -> Result {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.clone().map_or(Ok(()), |wrong| Err(wrong.into()))
    }

    pub(crate) fn summary(&self) -> String {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let deeds = &self.deeds;
        let mut text = format!(
            "{} lives ({} mute, {} stalled, {} reset), {} streams with {} ticks and {} skipped, \
             {} watches and {} ends of them; ended by",
            count(&deeds.lives),
            count(&deeds.mute),
            count(&deeds.stalls),
            count(&deeds.resets),
            count(&deeds.streams),
            count(&deeds.ticks),
            count(&deeds.skipped),
            count(&deeds.watches),
            count(&deeds.unwatches),
        );
        let ends = deeds.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (how, times) in &*ends {
            // Writing to a String cannot fail.
            let _ = write!(text, " {how}: {times}");
        }
        text
    }

    /// All leave, wherever they are.
    pub(crate) async fn stop(mut self) -> Result {
        self.tasks.shutdown().await;
        self.must_be_well()
    }
}

impl Deeds {
    fn ended(&self, how: String) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        *ends.entry(how).or_default() += 1;
    }
}

fn one(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

struct Peer {
    random: Random,
    site: Arc<Site>,
    pids: Pids,
    places: Arc<Semaphore>,
    deeds: Arc<Deeds>,
}

impl Peer {
    async fn live(&mut self) -> Lived {
        one(&self.deeds.lives);
        let way = Way {
            by_tls: self.random.once_in(2),
            resets: self.random.once_in(2),
        };
        if way.by_tls && way.resets {
            one(&self.deeds.resets);
        }
        match self.random.below(10) {
            0 => self.mute(way).await,
            1 | 2 => self.never_read(way).await,
            3..=5 => self.watch(way).await,
            6 => self.look_around(way).await,
            _ => self.read(way).await,
        }
    }

    /// Stands still for a while.
    async fn rest(&mut self, longest: Duration) {
        let time = self.random.within(longest);
        sleep(time).await;
    }

    async fn client(&mut self, way: Way) -> Lived<Client> {
        let window = self.random.any(&WINDOWS).unwrap_or(u16::MAX.into());
        let connecting = async {
            let _place = self.places.acquire().await;
            self.site.client(way, window).await
        };
        match timeout(PATIENCE, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(_)) => Err(Trouble::Ended("no connection".to_owned())),
            Err(_) => Err(Trouble::Ended("no connection in time".to_owned())),
        }
    }

    /// Says nothing, over TLS not even hello.
    async fn mute(&mut self, way: Way) -> Lived {
        one(&self.deeds.mute);
        if way.by_tls {
            let mut stream = self.site.tcp(way.resets).await?;
            if self.random.once_in(2) {
                // The first bytes of a hello.
                stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0]).await?;
            }
            self.rest(LONGEST).await;
        } else {
            let _wire = self.site.wire(way).await?;
            self.rest(LONGEST).await;
        }
        Ok(())
    }

    /// Asks for ticks and reads none of them, not even from the socket.
    async fn never_read(&mut self, way: Way) -> Lived {
        one(&self.deeds.stalls);
        let mut wire = {
            let _place = self.places.acquire().await;
            timeout(PATIENCE, self.site.wire(way))
                .await
                .map_err(|_| Trouble::Ended("no connection in time".to_owned()))??
        };
        let window = self.random.any(&WINDOWS).unwrap_or_default();
        wire.write_all(&raw_http2::subscriber(window)).await?;
        wire.flush().await?;
        self.rest(LONGEST).await;
        Ok(())
    }

    /// One stream after the other on a connection, each read for a while, or stalled and
    /// then read, or left at once.
    async fn read(&mut self, way: Way) -> Lived {
        let mut client = self.client(way).await?;
        for _ in 0..=self.random.below(3) {
            let mut stream = self.subscribe(&mut client, Vec::new()).await?;
            let mut last = None;
            for _ in 0..self.random.below(6) {
                if self.random.once_in(4) {
                    self.rest(LONGEST / 3).await;
                }
                last = Some(self.tick(&mut stream, last).await?);
            }
        }
        Ok(())
    }

    /// Watches processes that live for a moment, and perhaps does not say that it goes.
    async fn watch(&mut self, way: Way) -> Lived {
        let mut client = self.client(way).await?;
        let mut ids = Vec::new();
        for _ in 0..=self.random.below(3) {
            let Some(pid) = self.pids.any(&mut self.random) else {
                break;
            };
            let ttl = self.random.any(&LEASES).unwrap_or(1);
            let request = WatchRequest {
                life: Duration::from_secs(ttl).try_into().ok().map(Life::LeaseTtl),
                ..WatchRequest::new(Target::pid(pid))
            };
            match client.watch(request).await {
                Ok(answer) => {
                    one(&self.deeds.watches);
                    ids.extend(answer.into_inner().watch.map(|watch| watch.watch_id));
                }
                Err(status) => match Trouble::from(status) {
                    Trouble::Ended(how) => self.deeds.ended(how),
                    wrong @ Trouble::Wrong(_) => return Err(wrong),
                },
            }
        }
        if !ids.is_empty() && self.random.once_in(2) {
            let mut stream = self.subscribe(&mut client, ids.clone()).await?;
            let mut last = None;
            for _ in 0..self.random.below(4) {
                last = Some(self.tick(&mut stream, last).await?);
            }
        }
        self.rest(LONGEST / 5).await;
        for id in ids {
            if self.random.once_in(3) {
                continue;
            }
            let selector = Some(Selector::WatchId(id));
            client.unwatch(UnwatchRequest { selector }).await?;
            one(&self.deeds.unwatches);
        }
        Ok(())
    }

    /// The calls that change nothing.
    async fn look_around(&mut self, way: Way) -> Lived {
        let mut client = self.client(way).await?;
        for _ in 0..=self.random.below(4) {
            client.list_watches(ListWatchesRequest {}).await?;
            client
                .get_collector_info(GetCollectorInfoRequest {})
                .await?;
            self.rest(LONGEST / 5).await;
        }
        Ok(())
    }

    async fn subscribe(
        &mut self,
        client: &mut Client,
        watch_ids: Vec<String>,
    ) -> Lived<Streaming<SubscribeResponse>> {
        let interval = self.random.once_in(8).then(|| Duration::from_secs(2));
        // A part of the history first.
        let past = interval.is_none() && self.random.once_in(8);
        let since = past.then(|| std::time::SystemTime::now() - Duration::from_secs(3));
        let request = SubscribeRequest {
            per_process: self.random.once_in(3),
            only_changed: self.random.once_in(3),
            interval: interval.and_then(|it| it.try_into().ok()),
            since: since.map(|time| Since::Time(time.into())),
            ..SubscribeRequest::new(watch_ids)
        };
        let stream = client.subscribe(request).await?.into_inner();
        one(&self.deeds.streams);
        Ok(stream)
    }

    /// The next tick, which must follow the last; its sequence.
    async fn tick(
        &self,
        stream: &mut Streaming<SubscribeResponse>,
        last: Option<u64>,
    ) -> Lived<u64> {
        let tick = timeout(PATIENCE, stream.message())
            .await
            .map_err(|_| Trouble::Wrong(format!("a stream is silent for {PATIENCE:?}")))??
            .ok_or_else(|| Trouble::Ended("end of stream".to_owned()))?;
        one(&self.deeds.ticks);
        let deeds = &self.deeds.skipped;
        deeds.fetch_add(tick.skipped_ticks, Ordering::Relaxed);
        let before = tick.sequence - u64::from(tick.ticks) - tick.skipped_ticks;
        match last {
            Some(last) if before != last => Err(Trouble::Wrong(format!(
                "tick {} of {} after {last}, {} skipped",
                tick.sequence, tick.ticks, tick.skipped_ticks
            ))),
            _ => Ok(tick.sequence),
        }
    }
}
