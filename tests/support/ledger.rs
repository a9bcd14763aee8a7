//! Reads the stream of one watch in the background and keeps its books.
//!
//! Nothing waits unread, so no tick is skipped; and each tick is checked as it
//! comes: totals never go backwards and grow by what the interval tells, and the
//! parts of the processes, with the part that has no lines of its own, add up to
//! the watch's. The first rule that is broken is the error of every later call.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use netio::v1::{
    MapFull, NetIoSample, ProcessState, SubscribeRequest, SubscribeResponse, Watch,
    net_io_service_client::NetIoServiceClient,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::{Streaming, transport::Channel};

use super::{PATIENCE, Result};

/// Bytes sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub sent: u64,
    pub received: u64,
}

/// One process's line, over all ticks.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// As in the newest sample.
    pub name: String,
    /// The sum of its intervals.
    pub bytes: Bytes,
    /// When the tick was read that told of its exit.
    pub exited: Option<SystemTime>,
}

/// A process: pid and start time.
pub type Key = (u32, u64);

/// All that the stream has told.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// When each tick was read.
    pub ticks: Vec<SystemTime>,
    /// The newest sample of the watch.
    pub last: Option<NetIoSample>,
    pub map_full: MapFull,
    /// Every process that ever had a line.
    pub parts: BTreeMap<Key, Part>,
    /// The sum of the intervals of those that had none.
    pub unlisted: Bytes,
    /// The rule that was broken, or why the stream ended.
    trouble: Option<String>,
}

pub struct Ledger {
    books: watch::Receiver<Books>,
    reader: JoinHandle<()>,
}

impl Ledger {
    /// Subscribes to one watch, with each process's part.
    pub async fn open(client: &mut NetIoServiceClient<Channel>, watch: &Watch) -> Result<Self> {
        let request = SubscribeRequest {
            per_process: true,
            ..SubscribeRequest::new(vec![watch.watch_id.clone()])
        };
        let ticks = client.subscribe(request).await?.into_inner();
        let (newest, books) = watch::channel(Books::default());
        Ok(Self {
            books,
            reader: tokio::spawn(read(ticks, newest)),
        })
    }

    /// The books with all that happened before this call: those of the second
    /// tick that was read after it.
    pub async fn settled(&mut self) -> Result<Books> {
        let now = SystemTime::now();
        self.when("two ticks", |books| books.ticks_after(now) >= 2)
            .await
    }

    /// The books as soon as they are so.
    pub async fn when(&mut self, what: &str, so: impl Fn(&Books) -> bool) -> Result<Books> {
        let waited = self
            .books
            .wait_for(|books| books.trouble.is_some() || so(books));
        let Ok(books) = timeout(PATIENCE, waited).await else {
            let books = self.books.borrow().clone();
            return Err(format!("no {what} within {PATIENCE:?}: {books:?}").into());
        };
        let books = books?.clone();
        match &books.trouble {
            // A watch that is gone is heard of no more.
            Some(trouble) if !so(&books) || !books.has_ended() => Err(trouble.clone().into()),
            _ => Ok(books),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Books {
    /// The watch's totals.
    pub fn totals(&self) -> Bytes {
        self.last
            .as_ref()
            .map_or_else(Bytes::default, |last| Bytes {
                sent: last.sent_bytes_total,
                received: last.received_bytes_total,
            })
    }

    /// The state of the watch in its newest sample.
    pub fn state(&self) -> Option<ProcessState> {
        Some(self.last.as_ref()?.state())
    }

    /// The processes with this name now.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Key, &'a Part)> {
        self.parts.iter().filter(move |(_, part)| part.name == name)
    }

    /// How many ticks were read after that time.
    pub fn ticks_after(&self, time: SystemTime) -> usize {
        self.ticks.iter().filter(|tick| **tick > time).count()
    }

    fn has_ended(&self) -> bool {
        self.state() == Some(ProcessState::Exited)
    }

    /// Enters a tick; fails if it breaks a rule.
    fn enter(&mut self, tick: SubscribeResponse) -> Result {
        if tick.skipped_ticks > 0 {
            return Err(format!("{} ticks were skipped", tick.skipped_ticks).into());
        }
        let time = SystemTime::try_from(tick.time.ok_or("a tick without time")?)?;
        let map_full = tick.map_full.unwrap_or_default();
        if map_full.processes < self.map_full.processes || map_full.sockets > 0 {
            return Err(format!("{:?} after {:?}", map_full, self.map_full).into());
        }
        self.map_full = map_full;
        match tick.samples.as_slice() {
            // The watch has ended.
            [] => {}
            [sample] => {
                self.enter_sample(sample, time)
                    .map_err(|rule| format!("{rule}: {sample:?} after {:?}", self.last))?;
                self.last = Some(sample.clone());
            }
            samples => return Err(format!("{} samples of one watch", samples.len()).into()),
        }
        self.ticks.push(time);
        Ok(())
    }

    fn enter_sample(&mut self, sample: &NetIoSample, time: SystemTime) -> Result {
        if self.has_ended() {
            return Err("a sample after the last one".into());
        }
        let before = self.totals();
        // The first sample's interval may begin before the stream.
        let grown = self.last.is_none()
            || (sample.sent_bytes_total == before.sent + sample.sent_bytes
                && sample.received_bytes_total == before.received + sample.received_bytes);
        if !grown {
            return Err("the totals have not grown by the interval's bytes".into());
        }
        let mut parts = Bytes::default();
        for line in &sample.processes {
            let process = line.process.as_ref().ok_or("a line without a process")?;
            let part = self
                .parts
                .entry((process.pid, process.start_time_ns))
                .or_default();
            if part.exited.is_some() {
                return Err(format!("process {} after its exit", process.pid).into());
            }
            part.name.clone_from(&process.name);
            part.bytes.add(line.sent_bytes, line.received_bytes);
            if line.state() == ProcessState::Exited {
                part.exited = Some(time);
            }
            if (part.bytes.sent, part.bytes.received)
                != (line.sent_bytes_total, line.received_bytes_total)
            {
                return Err(format!("process {}: other totals than {part:?}", process.pid).into());
            }
            parts.add(line.sent_bytes, line.received_bytes);
        }
        if let Some(unlisted) = &sample.unlisted {
            self.unlisted
                .add(unlisted.sent_bytes, unlisted.received_bytes);
            parts.add(unlisted.sent_bytes, unlisted.received_bytes);
        }
        if (parts.sent, parts.received) != (sample.sent_bytes, sample.received_bytes) {
            return Err(format!("the parts add up to {parts:?}").into());
        }
        Ok(())
    }
}

impl Bytes {
    fn add(&mut self, sent: u64, received: u64) {
        self.sent += sent;
        self.received += received;
    }
}

/// Enters ticks until the stream ends, a rule is broken or nobody looks.
async fn read(mut ticks: Streaming<SubscribeResponse>, newest: watch::Sender<Books>) {
    loop {
        let told = match timeout(Duration::from_secs(60), ticks.message()).await {
            Ok(Ok(Some(tick))) => {
                let mut told = Ok(());
                newest.send_modify(|books| told = books.enter(tick));
                told.map_err(|error| error.to_string())
            }
            Ok(Ok(None)) => Err("the stream ended".to_owned()),
            Ok(Err(status)) => Err(status.to_string()),
            Err(_) => Err("the stream is silent".to_owned()),
        };
        if let Err(trouble) = told {
            newest.send_modify(|books| books.trouble = Some(trouble));
            return;
        }
        if newest.is_closed() {
            return;
        }
    }
}
