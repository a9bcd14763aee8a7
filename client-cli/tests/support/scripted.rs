//! A collector that does as a test says: takes a script, answers calls by it,
//! notes what it was asked, and sends the ticks that the test makes.
#![allow(dead_code, reason = "no test needs all of it")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use netio::v1::{
    self,
    net_io_service_server::{NetIoService, NetIoServiceServer},
    subscribe_request::Since,
    target::Selector,
    unwatch_request,
    watch_request::Life,
};
use tokio::{net::UnixListener, sync::mpsc, time::sleep};
use tokio_stream::{
    Stream,
    wrappers::{UnboundedReceiverStream, UnixListenerStream},
};
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When tick 0 was, in seconds since the epoch.
const BEGIN: i64 = 1_700_000_000;

/// The collector; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<State>>);

/// What it was told, what it was asked, and what it holds.
#[derive(Default)]
pub(crate) struct State {
    /// The processes that run; each matches the selector beside it.
    pub(crate) processes: Vec<(Selector, v1::Process)>,
    /// Calls that are refused, with this code and reason.
    pub(crate) refused: HashMap<Call, (Code, &'static str)>,
    /// The watches; a test takes out those that it lets end.
    pub(crate) watches: BTreeMap<String, v1::Watch>,
    /// What every watch was asked for by.
    pub(crate) requests: Vec<v1::WatchRequest>,
    /// What every renewal named.
    pub(crate) renewals: Vec<Vec<String>>,
    /// How long a watch after the first one takes.
    pub(crate) delay: Duration,
    /// What Discover finds.
    pub(crate) databases: Vec<v1::Database>,
    /// Processes without a line of their own, told with each tick.
    pub(crate) map_full: u64,
    /// What every stream was asked for by.
    pub(crate) subscriptions: Vec<v1::SubscribeRequest>,
    /// While it is set, nobody answers.
    pub(crate) is_down: bool,
    /// Which run of the collector this is.
    pub(crate) generation: u64,
    /// Runs that knew of nothing before.
    pub(crate) restarts: u64,
    /// The ticks that were; a test takes out those that are to be forgotten.
    pub(crate) history: Vec<v1::SubscribeResponse>,
    streams: Vec<Open>,
    sequence: u64,
}

/// What can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Watch,
    Renew,
    Unwatch,
    /// Subscribe for some watches only.
    Narrow,
}

struct Open {
    watch_ids: Vec<String>,
    per_process: bool,
    messages: mpsc::UnboundedSender<Result<v1::SubscribeResponse, Status>>,
}

impl Open {
    /// Sends of a tick what was asked for.
    fn send(&self, tick: &v1::SubscribeResponse) {
        let mut tick = tick.clone();
        tick.samples.retain(|sample| {
            self.watch_ids.is_empty() || self.watch_ids.contains(&sample.watch_id)
        });
        let _ = self.messages.send(Ok(tick));
    }
}

/// A process that started when its pid says.
pub(crate) fn process(pid: u32, name: &str) -> v1::Process {
    v1::Process {
        pid,
        start_time_ns: pid.into(),
        name: name.to_owned(),
        container_pid: pid,
        cgroup: "/".to_owned(),
    }
}

/// What a watch tells while this process runs.
pub(crate) fn running(watch_id: &str, process: v1::Process) -> v1::NetIoSample {
    v1::NetIoSample {
        watch_id: watch_id.to_owned(),
        process: Some(process),
        process_count: 1,
        state: v1::ProcessState::Running.into(),
        ..v1::NetIoSample::default()
    }
}

/// What a watch tells while none does.
pub(crate) fn waiting(watch_id: &str) -> v1::NetIoSample {
    v1::NetIoSample {
        watch_id: watch_id.to_owned(),
        state: v1::ProcessState::Waiting.into(),
        ..v1::NetIoSample::default()
    }
}

impl Scripted {
    /// Serves until it is dropped.
    pub(crate) fn serve(&self, socket: &Path) -> impl Future<Output = ()> + use<> {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = NetIoServiceServer::new(self.clone());
        async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        }
    }

    /// Looks at or changes the script.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    /// Lets a process run that this selector matches.
    pub(crate) fn start(&self, selector: Selector, process: v1::Process) {
        self.with(|state| state.processes.push((selector, process)));
    }

    /// The watches that each open stream names; a stream of all names none.
    pub(crate) fn streams(&self) -> Vec<Vec<String>> {
        self.with(|state| {
            state.streams.retain(|open| !open.messages.is_closed());
            let open = state.streams.iter();
            open.map(|open| open.watch_ids.clone()).collect()
        })
    }

    /// Whether every open stream asked for each process's part.
    pub(crate) fn is_asked_per_process(&self) -> bool {
        self.with(|state| state.streams.iter().all(|open| open.per_process))
    }

    /// Sends a tick of one second to every stream.
    pub(crate) fn tick(&self, samples: &[v1::NetIoSample]) {
        self.sum(1, samples);
    }

    /// Sends what sums up so many ticks of one second.
    pub(crate) fn sum(&self, ticks: u32, samples: &[v1::NetIoSample]) {
        self.with(|state| {
            state.sequence += u64::from(ticks);
            let tick = v1::SubscribeResponse {
                sequence: state.sequence,
                time: Some(state.now()),
                interval: Some(prost_types::Duration {
                    seconds: ticks.into(),
                    nanos: 0,
                }),
                instance: Some(state.instance()),
                map_full: Some(v1::MapFull {
                    processes: state.map_full,
                    sockets: 0,
                }),
                samples: samples.to_vec(),
                ticks,
                ..v1::SubscribeResponse::default()
            };
            for open in &state.streams {
                open.send(&tick);
            }
            state.history.push(tick);
        });
    }

    /// Breaks all streams off, and answers nobody until it is told to.
    pub(crate) fn go_down(&self) {
        self.with(|state| {
            state.is_down = true;
            state.streams.clear();
        });
    }

    /// The same, and says so to whoever has a stream.
    pub(crate) fn shut_down(&self) {
        self.with(|state| {
            for open in &state.streams {
                let stops = refusal(Code::Unavailable, "SHUTTING_DOWN");
                let _ = open.messages.send(Err(stops));
            }
        });
        self.go_down();
    }

    /// Answers again.
    pub(crate) fn come_back(&self) {
        self.with(|state| state.is_down = false);
    }

    /// Answers again, as another run that goes on with all but the history.
    pub(crate) fn go_on(&self) {
        self.with(|state| {
            state.is_down = false;
            state.generation += 1;
            state.history.clear();
        });
    }

    /// Answers again, as another run that knows of nothing before.
    pub(crate) fn restart(&self) {
        self.with(|state| {
            state.is_down = false;
            state.generation += 1;
            state.restarts += 1;
            state.sequence = 0;
            state.watches.clear();
            state.history.clear();
        });
    }
}

impl State {
    fn now(&self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: BEGIN + i64::try_from(self.sequence).unwrap(),
            nanos: 0,
        }
    }

    fn instance(&self) -> v1::CollectorInstance {
        v1::CollectorInstance {
            boot_id: String::new(),
            generation: self.generation,
            // Not zero, which says nothing.
            lineage: 1 + self.restarts,
        }
    }

    fn check_up(&self) -> Result<(), Status> {
        if self.is_down {
            return Err(Status::unavailable("nobody is there"));
        }
        Ok(())
    }

    /// The ticks of the history that are asked for.
    fn since(&self, since: Since) -> Result<Vec<v1::SubscribeResponse>, Status> {
        let ticks = self.history.iter().cloned();
        let point = match since {
            Since::Time(time) => {
                let is_late = |tick: &v1::SubscribeResponse| {
                    tick.time.is_some_and(|it| it.seconds >= time.seconds)
                };
                return Ok(ticks.filter(is_late).collect());
            }
            Since::After(point) => point,
        };
        let oldest = self.history.first().map_or(0, |tick| tick.sequence);
        if point.generation != self.generation || point.sequence + 1 < oldest {
            let oldest = [("generation", self.generation), ("oldest_sequence", oldest)];
            let oldest = oldest.map(|(key, value)| (key.to_owned(), value.to_string()));
            let details =
                ErrorDetails::with_error_info("HISTORY_GONE", netio::ERROR_DOMAIN, oldest);
            return Err(Status::with_error_details(
                Code::OutOfRange,
                "gone",
                details,
            ));
        }
        Ok(ticks.filter(|it| it.sequence > point.sequence).collect())
    }

    fn check(&self, call: Call) -> Result<(), Status> {
        match self.refused.get(&call) {
            Some((code, reason)) => Err(refusal(*code, reason)),
            None => Ok(()),
        }
    }

    fn check_ids(&self, watch_ids: &[String]) -> Result<(), Status> {
        let is_known = |id| self.watches.contains_key(id);
        if watch_ids.iter().all(is_known) {
            return Ok(());
        }
        Err(refusal(Code::NotFound, "WATCH_NOT_FOUND"))
    }

    fn watch(&mut self, request: v1::WatchRequest) -> Result<v1::Watch, Status> {
        self.check_up()?;
        self.check(Call::Watch)?;
        self.requests.push(request.clone());
        let target = request.target.unwrap();
        let selector = target.selector.as_ref().unwrap();
        let matching = self.processes.iter().filter(|(it, _)| it == selector);
        let processes: Vec<_> = matching.map(|(_, process)| process.clone()).collect();
        if processes.is_empty() && !request.wait {
            return Err(refusal(Code::NotFound, "PROCESS_NOT_FOUND"));
        }
        let lease = match request.life {
            Some(Life::LeaseTtl(ttl)) => Some(v1::Lease {
                ttl: Some(ttl),
                remaining: Some(ttl),
                held: false,
            }),
            Some(Life::Standing(true)) => None,
            // This client always says how long a watch is to live.
            _ => return Err(refusal(Code::InvalidArgument, "LEASE_INVALID")),
        };
        let watch = v1::Watch {
            watch_id: format!("w-{}", self.requests.len()),
            process_count: u32::try_from(processes.len()).unwrap(),
            processes,
            owner: "uid:0".to_owned(),
            create_time: Some(self.now()),
            follow_children: target.follow_children.unwrap_or(false),
            target: Some(target),
            lease,
        };
        self.watches.insert(watch.watch_id.clone(), watch.clone());
        Ok(watch)
    }

    fn unwatch(&mut self, request: v1::UnwatchRequest) -> Result<Vec<String>, Status> {
        self.check_up()?;
        self.check(Call::Unwatch)?;
        let selector = request.selector.unwrap();
        let is_meant = |watch: &v1::Watch| match &selector {
            unwatch_request::Selector::WatchId(id) => watch.watch_id == *id,
            unwatch_request::Selector::Target(target) => {
                let own = watch.target.as_ref().unwrap();
                own.selector == target.selector
            }
        };
        let ended = self.watches.extract_if(.., |_, watch| is_meant(watch));
        let ended: Vec<String> = ended.map(|(id, _)| id).collect();
        if ended.is_empty() {
            return Err(refusal(Code::NotFound, "WATCH_NOT_FOUND"));
        }
        Ok(ended)
    }
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, netio::ERROR_DOMAIN, []);
    Status::with_error_details(code, "as the script says", details)
}

#[tonic::async_trait]
impl NetIoService for Scripted {
    type SubscribeStream =
        Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<v1::WatchResponse>, Status> {
        let delay = self.with(|state| match state.watches.len() {
            0 => Duration::ZERO,
            _ => state.delay,
        });
        sleep(delay).await;
        let watch = self.with(|state| state.watch(request.into_inner()))?;
        Ok(Response::new(v1::WatchResponse { watch: Some(watch) }))
    }

    async fn unwatch(
        &self,
        request: Request<v1::UnwatchRequest>,
    ) -> Result<Response<v1::UnwatchResponse>, Status> {
        let watch_ids = self.with(|state| state.unwatch(request.into_inner()))?;
        Ok(Response::new(v1::UnwatchResponse { watch_ids }))
    }

    async fn renew_watches(
        &self,
        request: Request<v1::RenewWatchesRequest>,
    ) -> Result<Response<v1::RenewWatchesResponse>, Status> {
        let watch_ids = request.into_inner().watch_ids;
        self.with(|state| {
            state.check_up()?;
            state.renewals.push(watch_ids.clone());
            state.check(Call::Renew)?;
            state.check_ids(&watch_ids)
        })?;
        Ok(Response::new(v1::RenewWatchesResponse {}))
    }

    async fn list_watches(
        &self,
        _: Request<v1::ListWatchesRequest>,
    ) -> Result<Response<v1::ListWatchesResponse>, Status> {
        let watches = self.with(|state| {
            state.check_up()?;
            Ok::<_, Status>(state.watches.values().cloned().collect())
        })?;
        Ok(Response::new(v1::ListWatchesResponse { watches }))
    }

    async fn discover(
        &self,
        _: Request<v1::DiscoverRequest>,
    ) -> Result<Response<v1::DiscoverResponse>, Status> {
        let databases = self.with(|state| state.databases.clone());
        Ok(Response::new(v1::DiscoverResponse { databases }))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            state.check_up()?;
            state.subscriptions.push(request.clone());
            if !request.watch_ids.is_empty() {
                state.check(Call::Narrow)?;
            }
            if request.since.is_none() {
                state.check_ids(&request.watch_ids)?;
            }
            let past = match request.since {
                Some(since) => state.since(since)?,
                None => Vec::new(),
            };
            let (messages, received) = mpsc::unbounded_channel();
            let open = Open {
                watch_ids: request.watch_ids,
                per_process: request.per_process,
                messages,
            };
            for tick in &past {
                open.send(tick);
            }
            state.streams.push(open);
            let stream = UnboundedReceiverStream::new(received);
            Ok(Response::new(Box::pin(stream) as Self::SubscribeStream))
        })
    }

    async fn get_collector_info(
        &self,
        _: Request<v1::GetCollectorInfoRequest>,
    ) -> Result<Response<v1::GetCollectorInfoResponse>, Status> {
        let instance = self.with(|state| {
            state.check_up()?;
            Ok::<_, Status>(state.instance())
        })?;
        let info = Some(v1::CollectorInfo {
            instance: Some(instance),
            ..v1::CollectorInfo::default()
        });
        Ok(Response::new(v1::GetCollectorInfoResponse { info }))
    }
}
