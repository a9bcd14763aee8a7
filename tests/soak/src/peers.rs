//! The clients that do not behave. Each lives one life after the other: it connects,
//! does some of what a client can do, and leaves, often in the middle.
//!
//! What the collector refuses, or ends, is counted and no failure: it may. What it says
//! must be right, though: a stream that tells a gap wrongly is a failure. And they must have
//! done something, each kind of them ([`Peers::stop`]).
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
    task::{JoinError, JoinSet},
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
/// How a stream ends that stalled for too long: by a status with that reason or, amid a
/// message, by a reset.
const DROPPED: [&str; 2] = ["READER_STALLED", "ResourceExhausted"];

/// What they did: begun lives, and what of those got as far as to the collector.
#[derive(Default)]
struct Deeds {
    lives: AtomicU64,
    connections: AtomicU64,
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
    clients: u32,
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
                        }
                    }
                    // However quickly lives end, they do not spin.
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
        Self {
            clients,
            tasks,
            deeds,
            wrong,
        }
    }

    pub(crate) fn must_be_well(&mut self) -> Result {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wrong) = wrong.clone() {
            return Err(wrong.into());
        }
        // They live for ever.
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(format!("a client has ended: {ended:?}").into()),
        }
    }

    pub(crate) fn summary(&self) -> String {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let deeds = &self.deeds;
        let mut text = format!(
            "{} lives, {} connections ({} mute, {} stalled, {} reset), {} streams with {} ticks and {} skipped, \
             {} watches and {} ends of them; ended by",
            count(&deeds.lives),
            count(&deeds.connections),
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

    /// All leave, wherever they are. Fails, too, if they were no load.
    pub(crate) async fn stop(mut self) -> Result {
        self.must_be_well()?;
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            if ended.as_ref().is_err_and(JoinError::is_cancelled) {
                continue;
            }
            return Err(format!("a client has ended: {ended:?}").into());
        }
        self.deeds.judge(self.clients)
    }
}

impl Deeds {
    fn ended(&self, how: String) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        *ends.entry(how).or_default() += 1;
    }

    /// Fails unless there was some of everything that they do, by the number of clients.
    fn judge(&self, clients: u32) -> Result {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = DROPPED.iter().filter_map(|how| ends.get(*how)).sum();
        let done = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let all = u64::from(clients);
        for (what, times, least) in [
            ("lives", done(&self.lives), all),
            ("connections", done(&self.connections), all / 2),
            ("mute", done(&self.mute), all / 20),
            ("stalls", done(&self.stalls), all / 10),
            ("resets", done(&self.resets), all / 10),
            ("streams", done(&self.streams), all / 4),
            ("ticks", done(&self.ticks), all / 4),
            ("ticks skipped", done(&self.skipped), 1),
            ("watches", done(&self.watches), all / 10),
            ("watches ended", done(&self.unwatches), all / 20),
            ("streams dropped", dropped, 1),
        ] {
            if times < least {
                return Err(format!("no load: {times} {what}, at least {least} expected").into());
            }
        }
        Ok(())
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
        match self.random.below(10) {
            0 => self.mute(way).await,
            1 | 2 => self.never_read(way).await,
            3..=5 => self.watch(way).await,
            6 => self.look_around(way).await,
            _ => self.read(way).await,
        }
    }

    /// There is a connection.
    fn has_come(&self, way: Way) {
        one(&self.deeds.connections);
        if way.by_tls && way.resets {
            one(&self.deeds.resets);
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
            Ok(Ok(client)) => {
                self.has_come(way);
                Ok(client)
            }
            Ok(Err(_)) => Err(Trouble::Ended("no connection".to_owned())),
            Err(_) => Err(Trouble::Ended("no connection in time".to_owned())),
        }
    }

    /// Says nothing, over TLS not even hello.
    async fn mute(&mut self, way: Way) -> Lived {
        if way.by_tls {
            let mut stream = self.site.tcp(way.resets).await?;
            self.has_come(way);
            one(&self.deeds.mute);
            if self.random.once_in(2) {
                // The first bytes of a hello.
                stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0]).await?;
            }
            self.rest(LONGEST).await;
        } else {
            let _wire = self.site.wire(way).await?;
            self.has_come(way);
            one(&self.deeds.mute);
            self.rest(LONGEST).await;
        }
        Ok(())
    }

    /// Asks for ticks and reads none of them, not even from the socket.
    async fn never_read(&mut self, way: Way) -> Lived {
        let mut wire = {
            let _place = self.places.acquire().await;
            timeout(PATIENCE, self.site.wire(way))
                .await
                .map_err(|_| Trouble::Ended("no connection in time".to_owned()))??
        };
        let window = self.random.any(&WINDOWS).unwrap_or_default();
        wire.write_all(&raw_http2::subscriber(window)).await?;
        wire.flush().await?;
        self.has_come(way);
        one(&self.deeds.stalls);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers {
            clients: 1000,
            tasks: JoinSet::new(),
            deeds: Arc::default(),
            wrong: Arc::default(),
        }
    }

    #[tokio::test]
    async fn who_did_nothing_was_no_load() {
        let peers = peers();
        peers.deeds.lives.store(1000, Ordering::Relaxed);
        let why = peers.stop().await.expect_err("it is not well").to_string();
        assert_eq!(why, "no load: 0 connections, at least 500 expected");
    }

    #[tokio::test]
    async fn a_client_that_panics_or_ends_is_told() {
        let panics: fn() = || panic!("as it is told to");
        for (ends, how) in [(panics, "Panic"), (|| (), "Ok")] {
            let mut peers = peers();
            peers.tasks.spawn(async move { ends() });
            sleep(Duration::from_millis(50)).await;
            let why = peers.must_be_well().expect_err("it is not well");
            assert!(why.to_string().contains(how), "{why}");
        }
    }
}
