//! Watches the collector itself.
//!
//! Takes the sampler's [`Pulse`]; tells the health service and the service manager
//! how the collector fares, and feeds the manager's watchdog. Promises: the watchdog
//! is fed only while ticks go on, so a sampler that hangs gets the collector
//! restarted; no tick for [`MISSING_TICKS`] intervals, or hooks that do not count,
//! is told as NOT_SERVING, and that it is over, as SERVING.
//!
//! Wakes by its own timer, never by the sampler, which may hang (see also
//! [`super::rouse`]).
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::health::Health;
use crate::{notify::Notifier, sampler::Pulse};

/// Intervals without a tick after which ticks count as stopped.
const MISSING_TICKS: u32 = 3;

/// How the collector fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It counts, or could.
    Fine,
    /// It answers, but there are no hooks that count.
    Blind,
    /// Ticks have stopped.
    Stalled,
}

/// See the module.
pub(super) struct SelfWatch {
    pub(super) pulse: watch::Receiver<Pulse>,
    /// Between ticks.
    pub(super) interval: Duration,
    pub(super) health: Health,
    pub(super) notifier: Notifier,
    /// What is told while all is fine.
    pub(super) status: String,
}

impl SelfWatch {
    /// Tells for the first time, and that the collector serves.
    pub(super) async fn begin(&self) -> State {
        let state = self.state();
        self.health.tell(state).await;
        self.notifier.ready(self.text(state));
        state
    }

    /// Tells what changes, from what [`SelfWatch::begin`] told on, until it is told to
    /// stop.
    pub(super) async fn run(self, mut told: State, stop: CancellationToken) {
        let watchdog = self.notifier.watchdog();
        // Four times in a watchdog's period, so that one that comes late is no harm.
        let food = watchdog.map(|period| period / 4);
        let every = food.map_or(self.interval, |food| food.min(self.interval));
        let mut fed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(every) => {}
            }
            let state = self.state();
            if state != told {
                told = state;
                self.tell(state).await;
            }
            if state != State::Stalled && food.is_some_and(|food| fed.elapsed() >= food) {
                self.notifier.alive();
                fed = Instant::now();
            }
        }
        self.notifier.stopping();
    }

    fn state(&self) -> State {
        let pulse = *self.pulse.borrow();
        if pulse.last_tick.elapsed() > self.interval * MISSING_TICKS {
            State::Stalled
        } else if pulse.can_count {
            State::Fine
        } else {
            State::Blind
        }
    }

    fn text(&self, state: State) -> &str {
        match state {
            State::Fine => &self.status,
            State::Blind => "nothing can be counted: see the log, or netio-client doctor",
            State::Stalled => "ticks have stopped",
        }
    }

    async fn tell(&self, state: State) {
        let text = self.text(state);
        match state {
            State::Fine => info!("{text} again"),
            State::Blind | State::Stalled => error!("{text}"),
        }
        self.health.tell(state).await;
        self.notifier.status(text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tonic::transport::Channel;
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };

    use super::*;
    use crate::{
        Options,
        notify::tests::Manager,
        server::rig::{Rig, watch},
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Of the service, and of the server as a whole.
    async fn serving(health: &mut HealthClient<Channel>) -> (bool, bool) {
        let mut told = [false; 2];
        for (told, service) in told.iter_mut().zip(["netio.v1.NetIoService", ""]) {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await.unwrap();
            *told = answer.into_inner().status() == ServingStatus::Serving;
        }
        told.into()
    }

    async fn becomes(health: &mut HealthClient<Channel>, wanted: (bool, bool)) {
        let begin = Instant::now();
        while serving(health).await != wanted {
            assert!(begin.elapsed() < PATIENCE, "never {wanted:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn hears(manager: &Manager, wanted: &str) {
        let begin = Instant::now();
        while !manager.heard().iter().any(|it| it == wanted) {
            assert!(begin.elapsed() < PATIENCE, "never {wanted:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// On the real clock, with another thread than the one that hangs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fault_24_a_sampler_that_hangs_is_not_serving_and_feeds_no_watchdog() {
        let watchdog = Duration::from_millis(400);
        let manager = Manager::new();
        let mut rig = Rig::new(Options {
            interval: Options::MIN_INTERVAL,
            notifier: manager.notifier(watchdog),
            ..Options::default()
        });
        rig.processes.start(7, 1);
        let mut client = rig.client();
        watch(&mut client, 7).await;
        let mut health = HealthClient::new(rig.memory.channel());
        hears(&manager, "WATCHDOG=1").await;
        becomes(&mut health, (true, true)).await;

        let (release, released) = mpsc::channel::<()>();
        rig.kernel.at_next_look(move |_| _ = released.recv());
        becomes(&mut health, (false, false)).await;
        manager.heard();
        sleep(3 * watchdog).await;
        assert_eq!(manager.heard(), [""; 0]);
        assert_eq!(serving(&mut health).await, (false, false));

        drop(release);
        becomes(&mut health, (true, true)).await;
        hears(&manager, "WATCHDOG=1").await;
        rig.shutdown.cancel();
        rig.ended().await.unwrap();
        assert_eq!(
            manager.heard().last().map(String::as_str),
            Some("STOPPING=1\nSTATUS=stopping")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_manager_hears_ready_first_and_then_at_each_quarter_of_its_patience() {
        let manager = Manager::new();
        let _rig = Rig::new(Options {
            notifier: manager.notifier(Duration::from_secs(8)),
            ..Options::default()
        });
        sleep(Duration::from_millis(8_100)).await;
        let heard = manager.heard();
        assert_eq!(heard[0], "READY=1\nSTATUS=counting by tracepoint hooks");
        assert_eq!(heard[1..], ["WATCHDOG=1"; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_that_are_rarer_than_the_watchdog_do_not_starve_it() {
        let manager = Manager::new();
        let _rig = Rig::new(Options {
            interval: Options::MAX_INTERVAL,
            notifier: manager.notifier(Duration::from_secs(4)),
            ..Options::default()
        });
        // A socket's queue holds ten.
        for _ in 0..10 {
            sleep(Duration::from_secs(5)).await;
            let heard = manager.heard().len();
            assert!((4..=6).contains(&heard), "{heard}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_that_do_not_count_are_not_serving_until_they_do() {
        let manager = Manager::new();
        let rig = Rig::new(Options {
            notifier: manager.notifier(Duration::from_secs(30)),
            ..Options::default()
        });
        let mut health = HealthClient::new(rig.memory.channel());
        sleep(Duration::from_secs(20)).await;
        assert_eq!(serving(&mut health).await, (true, true));

        rig.kernel.with(|state| state.is_deaf = true);
        sleep(Duration::from_secs(15)).await;
        assert_eq!(serving(&mut health).await, (false, true));
        let heard = manager.heard();
        assert!(heard.iter().any(|it| it.contains("nothing can be counted")));
        // To be started again would not help.
        sleep(Duration::from_secs(15)).await;
        assert!(manager.heard().contains(&"WATCHDOG=1".to_owned()));

        rig.kernel.with(|state| state.is_deaf = false);
        sleep(Duration::from_secs(15)).await;
        assert_eq!(serving(&mut health).await, (true, true));
        hears(&manager, "STATUS=counting by tracepoint hooks").await;
    }
}
