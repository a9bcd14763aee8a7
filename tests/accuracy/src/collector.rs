//! The collector, in this process, used as any client uses it: by gRPC.
//!
//! Totals come from the stream of samples; a background task per pattern keeps
//! the newest of each watch, so that nothing waits unread.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use netio::v1::net_io_service_client::NetIoServiceClient;
use netio::v1::{
    CollectorInfo, GetCollectorInfoRequest, HookMode, NetIoSample, ProcessState, SubscribeRequest,
    SubscribeResponse, Target, UnwatchRequest, WatchRequest, unwatch_request,
};
use netio_collector::probe::{self, HookChoice, Keeping, ProbeOptions};
use netio_collector::{Listeners, Options, RunError};
use netio_traffic::protocol::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::counter::Totals;
use crate::report::{About, Attempt, BlindSpot, MissedEvents, Program};

/// Time between ticks: short, as each pattern waits for two.
const INTERVAL: Duration = Duration::from_millis(200);
/// A pattern has two processes to watch at most.
const MAX_WATCHES: u32 = 64;
/// How long the stream may take to tell what is waited for.
const STREAM_LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Collector {
    client: NetIoServiceClient<Channel>,
    task: JoinHandle<Result<(), RunError>>,
    stop: DropGuard,
    /// What was asked for.
    hooks: HookChoice,
}

/// The watches of one pattern and the newest samples of them.
pub(crate) struct Watched {
    /// In the order of the pids.
    watch_ids: Vec<String>,
    seen: watch::Receiver<Seen>,
    missed_before: MissedEvents,
    /// Children were to be followed, and the hooks cannot.
    pub(crate) children_refused: bool,
}

/// What the stream has told.
#[derive(Debug, Default)]
struct Seen {
    /// When the newest tick was read.
    time: Option<SystemTime>,
    /// The newest sample of each watch, also after it has ended.
    samples: BTreeMap<String, NetIoSample>,
    /// A sample that came after its watch's last.
    late: Option<NetIoSample>,
    /// Why the stream ended.
    ended: Option<String>,
}

impl Collector {
    /// Attaches the hooks and serves.
    pub(crate) fn start(hooks: HookChoice) -> Self {
        let mut options = Options {
            interval: INTERVAL,
            ..Options::default()
        };
        options.limits.max_watches = MAX_WATCHES;
        let kernel = probe::attach(&ProbeOptions {
            hooks,
            limits: options.limits,
            keeping: Keeping::Not("it is part of another program".to_owned()),
        });
        let mut listeners = Listeners::new();
        let memory = listeners.memory();
        let stop = CancellationToken::new();
        let task = tokio::spawn(netio_collector::run(
            kernel,
            options,
            listeners,
            stop.clone(),
        ));
        Self {
            client: NetIoServiceClient::new(memory.channel()),
            task,
            stop: stop.drop_guard(),
            hooks,
        }
    }

    async fn info(&mut self) -> Result<CollectorInfo> {
        let response = self.client.get_collector_info(GetCollectorInfoRequest {});
        let response = response.await.context("GetCollectorInfo")?;
        response
            .into_inner()
            .info
            .context("GetCollectorInfo answered nothing")
    }

    pub(crate) async fn about(&mut self) -> Result<About> {
        let info = self.info().await?;
        let programs = info.programs.iter();
        let blind_spots = info.blind_spots.iter();
        let attempts = info.attempts.iter();
        Ok(About {
            mode: match info.hook_mode() {
                HookMode::Unspecified => self.hooks.to_string(),
                mode => mode_name(mode),
            },
            kernel: info.kernel_release.clone(),
            programs: programs
                .map(|program| Program {
                    name: program.name.clone(),
                    hook: program.hook.clone(),
                })
                .collect(),
            blind_spots: blind_spots
                .map(|spot| BlindSpot {
                    id: spot.id.clone(),
                    description: spot.description.clone(),
                })
                .collect(),
            attempts: attempts
                .map(|attempt| Attempt {
                    mode: mode_name(attempt.mode()),
                    cause: attempt.cause.clone(),
                    remedy: attempt.remedy.clone(),
                })
                .collect(),
        })
    }

    /// Watches each process, with its children if they are to be followed.
    pub(crate) async fn watch(&mut self, pids: &[u32], children: bool) -> Result<Watched> {
        let missed_before = missed(&self.info().await?);
        let mut children_refused = false;
        let mut watch_ids = Vec::with_capacity(pids.len());
        for &pid in pids {
            let mut watch = self.watch_one(pid, children).await;
            if let Err(refusal) = &watch
                && follows_no_children(refusal)
            {
                // What it counts all the same is worth showing.
                children_refused = true;
                watch = self.watch_one(pid, false).await;
            }
            watch_ids.push(watch.with_context(|| format!("Watch pid {pid}"))?);
        }
        let request = SubscribeRequest::new(watch_ids.clone());
        let ticks = self.client.subscribe(request).await.context("Subscribe")?;
        let (newest, seen) = watch::channel(Seen::default());
        tokio::spawn(follow(ticks.into_inner(), newest));
        Ok(Watched {
            watch_ids,
            seen,
            missed_before,
            children_refused,
        })
    }

    /// The id of a new watch.
    async fn watch_one(&mut self, pid: u32, children: bool) -> Result<String, Status> {
        let target = Target::pid(pid).following_children(children);
        let response = self.client.watch(WatchRequest::new(target)).await?;
        let watch = response.into_inner().watch;
        Ok(watch
            .ok_or_else(|| Status::internal("Watch answered nothing"))?
            .watch_id)
    }

    /// Totals of the second tick from now: that one was read after this call.
    pub(crate) async fn totals(&mut self, watched: &Watched) -> Result<Totals> {
        let second = SystemTime::now() + INTERVAL;
        let totals = watched
            .totals_when(|seen| seen.time > Some(second))
            .await
            .context("wait for two ticks")?;
        Ok((totals, Some(self.missed_since(watched).await?)))
    }

    /// Totals of the samples that tell of the exit, which must be the last.
    pub(crate) async fn totals_of_exited(&mut self, watched: Watched) -> Result<Totals> {
        let exited = |seen: &Seen| {
            watched.watch_ids.iter().all(|id| {
                let sample = seen.samples.get(id);
                sample.is_some_and(|sample| sample.state() == ProcessState::Exited)
            })
        };
        let totals = watched
            .totals_when(exited)
            .await
            .context("wait for the sample that tells of the exit")?;
        let second = SystemTime::now() + INTERVAL;
        watched
            .totals_when(|seen| seen.time > Some(second))
            .await
            .context("wait for two ticks after the exit")?;
        if let Some(late) = &watched.seen.borrow().late {
            bail!("a sample came after that of the exit: {late:?}");
        }
        Ok((totals, Some(self.missed_since(&watched).await?)))
    }

    async fn missed_since(&mut self, watched: &Watched) -> Result<MissedEvents> {
        let (before, now) = (watched.missed_before, missed(&self.info().await?));
        Ok(MissedEvents {
            recursion: now.recursion - before.recursion,
            kretprobe: now.kretprobe - before.kretprobe,
            map_full: now.map_full - before.map_full,
        })
    }

    pub(crate) async fn unwatch(&mut self, watched: Watched) -> Result<()> {
        for watch_id in watched.watch_ids {
            let selector = unwatch_request::Selector::WatchId(watch_id);
            let request = UnwatchRequest {
                selector: Some(selector),
            };
            match self.client.unwatch(request).await {
                // It ended by itself with its process.
                Err(status) if status.code() == Code::NotFound => {}
                ended => {
                    ended.context("Unwatch")?;
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        drop(self.stop);
        self.task
            .await
            .context("the collector broke off")?
            .context("the collector failed")
    }
}

impl Watched {
    /// Waits until `happened`, then reads every watch's totals.
    async fn totals_when(&self, happened: impl Fn(&Seen) -> bool) -> Result<Vec<Bytes>> {
        let mut seen = self.seen.clone();
        let waited = seen.wait_for(|seen| happened(seen) || seen.ended.is_some());
        let Ok(seen) = timeout(STREAM_LIMIT, waited).await else {
            bail!("the stream did not tell so within {STREAM_LIMIT:?}");
        };
        let seen = seen.context("the stream is not read any more")?;
        if let Some(why) = seen.ended.as_ref().filter(|_| !happened(&seen)) {
            bail!("the stream ended: {why}");
        }
        let totals = self.watch_ids.iter().map(|id| {
            let sample = seen.samples.get(id);
            let sample = sample.with_context(|| format!("no sample of watch {id} came"))?;
            Ok(Bytes {
                sent: sample.sent_bytes_total,
                received: sample.received_bytes_total,
            })
        });
        totals.collect()
    }
}

/// Reads the stream until it ends or nobody looks at what it told.
async fn follow(mut ticks: Streaming<SubscribeResponse>, newest: watch::Sender<Seen>) {
    while !newest.is_closed() {
        match ticks.message().await {
            Ok(Some(tick)) => newest.send_modify(|seen| {
                seen.time = tick.time.and_then(|time| SystemTime::try_from(time).ok());
                for sample in tick.samples {
                    let last = seen.samples.get(&sample.watch_id);
                    if last.is_some_and(|last| last.state() == ProcessState::Exited) {
                        seen.late.get_or_insert(sample);
                    } else {
                        seen.samples.insert(sample.watch_id.clone(), sample);
                    }
                }
            }),
            Ok(None) => {
                newest.send_modify(|seen| seen.ended = Some("without a status".to_owned()));
                return;
            }
            Err(status) => {
                newest.send_modify(|seen| seen.ended = Some(status.to_string()));
                return;
            }
        }
    }
}

/// Whether a watch was refused because these hooks cannot follow children.
fn follows_no_children(refusal: &Status) -> bool {
    refusal.code() == Code::FailedPrecondition
        && refusal
            .get_details_error_info()
            .is_some_and(|info| info.reason == "CHILDREN_NOT_FOLLOWED")
}

/// What cannot be read counts as nothing: the errors tell anyway.
fn missed(info: &CollectorInfo) -> MissedEvents {
    let missed = info.missed_events.unwrap_or_default();
    MissedEvents {
        recursion: missed.recursion.unwrap_or_default(),
        kretprobe: missed.kretprobe.unwrap_or_default(),
        map_full: info.map_full.unwrap_or_default().sockets,
    }
}

fn mode_name(mode: HookMode) -> String {
    match mode {
        HookMode::Unspecified => "none",
        HookMode::Tracepoint => "tracepoint",
        HookMode::Fentry => "fentry",
        HookMode::Kprobe => "kprobe",
    }
    .to_owned()
}
