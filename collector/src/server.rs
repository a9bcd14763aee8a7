//! Serves the API and runs the sampler, from start to stop.
//!
//! Takes options, [`Listeners`], then a kernel and a token to stop by; produces the
//! gRPC services of netio, health and reflection on every listener. Promises to
//! return within [`DRAIN`] + [`CUT`] + [`DETACH`] (4 s) of the order to stop:
//! streams end at once with a status, connections get time to close, and those
//! that do not are cut off. After that nothing it started is left.
#![forbid(unsafe_code)]

use std::{
    mem,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use netio::v1;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Layer as _;
use tracing::{error, info, warn};

use crate::{
    Limits, Options,
    access::{Access, AccessError, Gate, Gates, reload},
    discovery::Discovery,
    enrolment::Enrolment,
    hub::{Hub, HubOptions},
    keep::State,
    kernel::{Kernel, Mark},
    probe::mode_name,
    processes::{ProcFs, Processes, Selector},
    rpc::Service,
    sampler::Sampler,
    service::net_io_service_server::NetIoServiceServer,
    ticker::{Clock, SystemClock},
    watches::{Now, Watches},
};

mod about;
mod accept;
mod cork;
mod health;
mod http2;
mod io;
mod listen;
mod pace;
mod proof;
#[cfg(test)]
pub(crate) mod rig;
mod rouse;
mod self_watch;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod unix;
mod unstalled;

use accept::Accepted;
pub(crate) use cork::{OpenStream, OpenStreams};
use health::Health;
use http2::Rules;
pub(crate) use io::Peer;
pub use listen::{Listeners, MemoryConnector};
use rouse::Rouser;
use self_watch::SelfWatch;
use tls::Tls;
pub use tls::{TlsFiles, handshakes::MOST as MAX_HANDSHAKES};

/// Connections get this long to close by themselves.
const DRAIN: Duration = Duration::from_secs(3);
/// Then this long to notice that they were cut off.
const CUT: Duration = Duration::from_millis(250);
/// And the hooks this long to be detached, which happens meanwhile; what connections
/// leave of their time is for it, too.
const DETACH: Duration = Duration::from_millis(750);

/// A stream that stalls is ended first; if its connection takes nothing either, so that
/// nothing can be told, that is closed so much later.
const STALL_GRACE: Duration = Duration::from_secs(5);
/// The largest request: a Subscribe with its 1,024 ids has less.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// How often at least the runtime is roused, and at each interval.
const ROUSE: Duration = Duration::from_secs(1);

/// The owner of the configuration's watches.
const OWNER: &str = "config";

/// Why the collector could not run, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nobody could ever connect.
    #[error("there is nothing to listen on: give at least one address, such as {default}", default = netio::DEFAULT_ENDPOINT)]
    NoListeners,
    /// The interval is out of range.
    #[error(
        "an interval of {0:?} is out of range: choose one from {min:?} to {max:?}",
        min = Options::MIN_INTERVAL,
        max = Options::MAX_INTERVAL
    )]
    Interval(Duration),
    /// The kernel did not say which boot this is.
    #[error("cannot read the boot id from /proc/sys/kernel/random/boot_id: {0}; is /proc mounted?")]
    BootId(std::io::Error),
    /// The grants cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The certificates cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The listeners could not be handed to the runtime.
    #[error("cannot listen: {0}")]
    Listen(std::io::Error),
    /// A thread could not be had.
    #[error("cannot start a thread: {0}")]
    Rouse(std::io::Error),
    /// Reflection could not be set up.
    #[error("cannot set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The sampling task ended by a fault of its own.
    #[error("sampling stopped unexpectedly ({0}): this is a defect, please report it")]
    Sampler(String),
}

/// What the collector sees of its host; tests have their own.
pub(crate) struct World {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) processes: Arc<dyn Processes>,
}

/// [`Collector::prepare`] and [`Collector::run`].
pub async fn run(
    kernel: Box<dyn Kernel>,
    options: Options,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let collector = Collector::prepare(options, listeners)?;
    collector.run(kernel, shutdown).await
}

/// A collector that only lacks its kernel. What is wrong with its settings is told before
/// anything is attached, so that one which cannot start leaves nothing pinned that was not
/// there.
pub struct Collector {
    options: Options,
    listeners: Listeners,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
}

impl Collector {
    /// Reads the files of certificates and tokens.
    pub fn prepare(mut options: Options, listeners: Listeners) -> Result<Self, RunError> {
        if listeners.is_empty() {
            return Err(RunError::NoListeners);
        }
        if !(Options::MIN_INTERVAL..=Options::MAX_INTERVAL).contains(&options.interval) {
            return Err(RunError::Interval(options.interval));
        }
        let access = Arc::new(Access::new(mem::take(&mut options.grants))?);
        let tls = tls(&listeners, &access)?;
        Ok(Self {
            options,
            listeners,
            access,
            tls,
        })
    }

    /// Time between its ticks.
    pub fn interval(&self) -> Duration {
        self.options.interval
    }

    /// Runs until `shutdown` is cancelled. Dropping the future ends it too, without the
    /// time to drain.
    pub async fn run(
        self,
        kernel: Box<dyn Kernel>,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let world = World {
            clock: Arc::new(SystemClock),
            processes: Arc::new(ProcFs::new("/proc")),
        };
        run_in(world, kernel, self, shutdown).await
    }
}

/// [`Collector::run`] in a given world.
pub(crate) async fn run_in(
    world: World,
    mut kernel: Box<dyn Kernel>,
    collector: Collector,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let Collector {
        options,
        listeners,
        access,
        tls,
    } = collector;
    let mut about = about::about(&*kernel, &options).map_err(RunError::BootId)?;
    let mut health = Health::new().await;
    let _rouser = Rouser::start(options.interval.min(ROUSE)).map_err(RunError::Rouse)?;

    // Whatever ends this function, a drop included, stops what it started.
    let stop = shutdown.child_token();
    let _stop = stop.clone().drop_guard();
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();

    let mut files: Vec<Arc<dyn reload::Reload>> = Vec::new();
    files.extend(tls.clone().map(|it| it as _));
    files.extend(access.tokens().files().iter().map(|it| Arc::clone(it) as _));
    if !files.is_empty() {
        let follow = reload::follow(files, listeners.reload);
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
    }
    let subscribers = options.limits.max_subscribers;
    let rules = Rules {
        patience: listeners.patience,
        stall: options.limits.stall_timeout,
        max_calls: subscribers.saturating_add(listeners.other_calls) as usize,
        max_lasting: listeners.lasting_calls,
        max_answers: listeners.other_answers,
        max_changes: listeners.changes,
    };
    let (incoming, mut accepting) = Accepted::start(
        listeners,
        tls.as_ref(),
        options.limits.max_connections,
        rules.stall + STALL_GRACE,
        &access,
        &cut,
    )
    .map_err(RunError::Listen)?;
    let hub = Arc::new(Hub::new(HubOptions {
        max_subscribers: options.limits.max_subscribers,
        interval: options.interval,
        max_history: options.limits.max_history,
        max_history_bytes: options.limits.max_history_bytes,
        last_sequence: kernel.mark(Mark::Sequence),
    }));
    let streams = Streams(Arc::clone(&hub));
    let follows_children = kernel.info().follows_children;
    let again = kernel.again();
    let state = kernel.left();
    if let (Some(instance), Some(state)) = (&mut about.instance, &state) {
        instance.lineage = state.lineage;
    }
    let (watches, standing) = watches(&world, kernel, state, options.limits, options.watches).await;
    let (mut sampler, commands) = Sampler::new(
        watches,
        world.clock,
        options.interval,
        Arc::clone(&hub),
        about.instance.clone().unwrap_or_default(),
    );
    if let (Some(attach), Some(after)) = (again, options.detach_when_idle) {
        sampler = sampler.attached_on_demand(attach, after);
    }
    sampler = sampler.kept_at_the_end(options.keep_at_stop);
    let enrolment = Enrolment::new(world.processes, commands.clone(), follows_children);
    let discovery = Discovery::new(enrolment.apart(), sampler.rules(), sampler.changes());
    let pulse = sampler.pulse();
    let mut sampler = tokio::spawn(sampler.run(stop.clone()));
    // It ends by the token, or with the sampler.
    tokio::spawn(discovery.run(stop.clone()));
    tokio::select! {
        () = make_standing(&enrolment, standing) => {}
        () = stop.cancelled() => {}
    }
    let self_watch = SelfWatch {
        pulse,
        interval: options.interval,
        health: health.clone(),
        notifier: options.notifier,
        status: format!("counting by {} hooks", mode_name(about.hook_mode())),
    };
    let service = Service {
        enrolment,
        commands,
        hub,
        limits: options.limits,
        about,
        access: Arc::clone(&access),
    };
    let services = services(service, &health, access)?;
    let server = http2::serve(incoming, services, rules, stop.clone());
    let mut server = pin!(server);
    // Whoever connects is served from now on.
    let told = self_watch.begin().await;
    let self_watch = tokio::spawn(self_watch.run(told, stop.clone()));

    let mut sampled = None;
    let mut has_closed = false;
    tokio::select! {
        () = shutdown.cancelled() => {}
        // Ends by the token only, which it may see first.
        () = &mut server => has_closed = true,
        ended = &mut sampler => sampled = Some(ended),
    }
    // The shutdown ends the others too, and their end may be seen first.
    let faulty = !shutdown.is_cancelled();

    let stopping = Instant::now();
    info!("stopping: streams end, connections get {DRAIN:?} to close");
    stop.cancel();
    drop(streams);
    accepting.shutdown().await;
    // Tells nothing any more once it has ended.
    let _ = self_watch.await;
    health.stop().await;
    if has_closed {
        info!("stopped: there was no connection");
    } else {
        drain(server, &cut).await;
    }
    let early = faulty && sampled.is_some();
    let sampled = match sampled {
        Some(ended) => Ok(ended),
        None => {
            let left = (DRAIN + CUT + DETACH).saturating_sub(stopping.elapsed());
            timeout(left.max(DETACH), &mut sampler).await
        }
    };
    match sampled {
        Ok(Err(fault)) => Err(RunError::Sampler(fault.to_string())),
        Ok(Ok(())) if early => Err(RunError::Sampler("it ended early".to_owned())),
        Ok(Ok(())) => Ok(()),
        Err(_) => {
            warn!("the hooks are still being detached");
            Ok(())
        }
    }
}

/// What the listeners with TLS go by.
fn tls(listeners: &Listeners, access: &Access) -> Result<Option<Arc<Tls>>, RunError> {
    let Some(files) = listeners.tls_files.clone() else {
        return Ok(None);
    };
    let is_certificate_optional = access.check_tls(files.client_ca.is_some())?;
    let tls = Tls::new(files, is_certificate_optional).map_err(RunError::Tls)?;
    Ok(Some(Arc::new(tls)))
}

/// The watches to begin with, and which of the configuration's must still be made:
/// those of a collector that is gone go on, if the kernel tells what was written down.
async fn watches(
    world: &World,
    kernel: Box<dyn Kernel>,
    state: Option<State>,
    limits: Limits,
    configured: Vec<v1::Target>,
) -> (Watches, Vec<v1::Target>) {
    let Some(state) = state else {
        return (Watches::new(kernel, limits), configured);
    };
    let now = Now {
        monotonic: world.clock.monotonic(),
        boot: world.clock.boot(),
    };
    let wanted = Watches::processes_of(&state);
    let processes = Arc::clone(&world.processes);
    let found = spawn_blocking(move || {
        let found = wanted.into_iter().filter_map(|id| {
            let found = processes.find(id.tgid).ok()?;
            (found.id() == id).then_some((id, found))
        });
        found.collect()
    });
    let found = found.await.unwrap_or_default();
    let mut watches = Watches::go_on(kernel, limits, &state, found, now);
    let missing = watches.reconcile(OWNER, configured);
    let (count, processes) = watches.counts();
    info!(watches = count, processes, "going on with what was watched");
    (watches, missing)
}

/// What streams there are end when it is dropped.
struct Streams(Arc<Hub>);

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes the watches of the configuration, whether or not anything matches yet.
async fn make_standing(enrolment: &Enrolment, targets: Vec<v1::Target>) {
    for target in targets {
        let Some(Ok(selector)) = target.selector.as_ref().map(Selector::parse) else {
            error!(?target, "the configuration's watch names nothing");
            continue;
        };
        let what = selector.to_string();
        let made = enrolment.make_standing(target, selector, OWNER.to_owned());
        if let Err(error) = made.await {
            error!(%what, %error, "the configuration's watch is not made");
        }
    }
}

fn services(
    service: Service,
    health: &Health,
    access: Arc<Access>,
) -> Result<Gate<Routes>, RunError> {
    let netio = NetIoServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let health = health
        .service()
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let routes = Routes::new(netio)
        .add_service(health)
        .add_service(reflection)
        .prepare();
    Ok(Gates(access).layer(routes))
}

/// Waits until every connection has closed, and cuts off those that take too long.
async fn drain(mut server: Pin<&mut impl Future<Output = ()>>, cut: &CancellationToken) {
    if let Ok(()) = timeout(DRAIN, server.as_mut()).await {
        return info!("stopped: every connection has closed");
    }
    cut.cancel();
    let all_closed = timeout(CUT, server).await.is_ok();
    warn!(
        all_closed,
        "stopped: cut off the connections that did not close"
    );
}
