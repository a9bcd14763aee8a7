//! Connections that are lost, and collectors that come back, or not.

use netio::v1::subscribe_request::Since;
use tonic::Code;

use super::{
    bench::{Scene, Shown, order},
    scripted::{Call, process, running, waiting},
    *,
};

fn one() -> Order {
    order([v1::Target::port(1)], u64::MAX)
}

fn exited(watch_id: &str) -> v1::NetIoSample {
    v1::NetIoSample {
        state: v1::ProcessState::Exited.into(),
        ..running(watch_id, process(7, "db"))
    }
}

impl Scene {
    /// Watches port 1 for one tick, and loses the connection.
    async fn lose(&self) {
        self.narrowed(&["w-1"]).await;
        self.collector.tick(&[waiting("w-1")]);
        self.collector.go_down();
    }

    /// Since when the last stream was asked for.
    fn asked_since(&self) -> Option<Since> {
        self.collector
            .with(|state| state.subscriptions.last().and_then(|it| it.since))
    }

    async fn through(&self, order: &Order, collector: impl Future<Output = ()>) -> Shown {
        let (shown, ()) = tokio::join!(self.watch(order, View::Json), collector);
        shown
    }
}

fn after(sequence: u64) -> Option<Since> {
    Some(Since::After(v1::TickPoint {
        generation: 0,
        sequence,
    }))
}

fn sequences(shown: &Shown) -> Vec<u64> {
    column(&parse(shown.lines.as_bytes()), "sequence")
}

#[tokio::test]
async fn what_came_meanwhile_is_shown_without_a_hole() {
    for says_so in [false, true] {
        let scene = Scene::new().await;
        let order = Order {
            count: Some(5),
            ..one()
        };
        let collector = async {
            scene.narrowed(&["w-1"]).await;
            scene.collector.tick(&[waiting("w-1")]);
            if says_so {
                scene.collector.shut_down();
            } else {
                scene.collector.go_down();
            }
            scene.collector.tick(&[waiting("w-1")]);
            scene.collector.tick(&[waiting("w-1")]);
            // Several attempts.
            sleep(Duration::from_millis(200)).await;
            scene.collector.come_back();
            scene.narrowed(&["w-1"]).await;
            assert_eq!(scene.asked_since(), after(1));
            scene.collector.tick(&[waiting("w-1")]);
            scene.collector.tick(&[waiting("w-1")]);
        };
        let shown = scene.through(&order, collector).await;
        assert_eq!(shown.outcome, Ok(()));
        assert_eq!(sequences(&shown), [1, 2, 3, 4, 5]);
        assert_eq!(shown.notes.lines().count(), 1, "{}", shown.notes);
        assert!(shown.notes.contains("trying again for up to 10s"));
        scene.collector.with(|state| {
            assert_eq!(state.requests.len(), 1, "it lived all the time");
            assert!(state.watches.is_empty(), "it ends with the command");
        });
    }
}

#[tokio::test]
async fn ticks_that_the_history_has_no_longer_are_told_as_missing() {
    let scene = Scene::new().await;
    let order = Order {
        count: Some(3),
        ..one()
    };
    let collector = async {
        scene.lose().await;
        for _ in 0..5 {
            scene.collector.tick(&[waiting("w-1")]);
        }
        // Those of 1 to 5.
        scene.collector.with(|state| drop(state.history.drain(..5)));
        scene.collector.come_back();
        scene.narrowed(&["w-1"]).await;
        assert_eq!(scene.asked_since(), after(5), "the oldest and all after it");
        scene.collector.tick(&[waiting("w-1")]);
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(sequences(&shown), [1, 6, 7]);
    let lines = parse(shown.lines.as_bytes());
    assert_eq!(column(&lines, "skipped_ticks"), [0, 4, 0]);
    assert!(
        shown.notes.contains("4 tick(s) are missing: the collector"),
        "{}",
        shown.notes
    );
}

#[tokio::test]
async fn after_a_restart_the_watches_are_made_anew() {
    let scene = Scene::new().await;
    let order = Order {
        count: Some(2),
        ..one()
    };
    let collector = async {
        scene.lose().await;
        scene.collector.restart();
        scene.narrowed(&["w-2"]).await;
        scene.collector.tick(&[waiting("w-2")]);
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(sequences(&shown), [1, 1], "sequences begin anew as well");
    let said = "netio-client: the collector was restarted: totals begin anew\n";
    assert!(shown.notes.ends_with(said), "{}", shown.notes);
    scene.collector.with(|state| {
        assert!(state.requests[1].wait, "nothing may match at the moment");
        assert!(state.watches.is_empty(), "it ends with the command");
    });
}

#[tokio::test]
async fn a_collector_that_goes_on_after_another_is_followed() {
    let scene = Scene::new().await;
    let order = Order {
        count: Some(3),
        ..one()
    };
    let collector = async {
        scene.lose().await;
        scene.collector.tick(&[waiting("w-1")]);
        scene.collector.go_on();
        scene.collector.tick(&[waiting("w-1")]);
        scene.narrowed(&["w-1"]).await;
        scene.collector.tick(&[waiting("w-1")]);
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(sequences(&shown), [1, 3, 4]);
    let lines = parse(shown.lines.as_bytes());
    assert_eq!(column(&lines, "skipped_ticks"), [0, 1, 0]);
    assert!(!shown.notes.contains("begin anew"), "{}", shown.notes);
    scene.collector.with(|state| {
        assert_eq!(state.requests.len(), 1, "it lived all the time");
    });
}

#[tokio::test]
async fn a_process_that_a_restarted_collector_does_not_find_is_over() {
    let scene = Scene::new().await;
    let selector = netio::v1::target::Selector::Pid(7);
    scene.collector.start(selector, process(7, "db"));
    let order = order([v1::Target::pid(7)], u64::MAX);
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        scene.collector.tick(&[running("w-1", process(7, "db"))]);
        scene.collector.go_down();
        scene.collector.with(|state| state.processes.clear());
        scene.collector.restart();
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(shown.outcome, Ok(()));
    assert!(
        shown.notes.contains("no more samples of pid 7: it exited"),
        "{}",
        shown.notes
    );
}

#[tokio::test]
async fn another_process_that_has_the_pid_by_now_is_not_watched() {
    let scene = Scene::new().await;
    let pid = || netio::v1::target::Selector::Pid(7);
    scene.collector.start(pid(), process(7, "db"));
    let order = order([v1::Target::pid(7)], u64::MAX);
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        scene.collector.tick(&[running("w-1", process(7, "db"))]);
        scene.collector.go_down();
        scene.collector.with(|state| {
            let mut another = process(7, "cat");
            another.start_time_ns = 99;
            state.processes = vec![(pid(), another)];
        });
        scene.collector.restart();
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(shown.outcome, Ok(()));
    scene.collector.with(|state| {
        assert_eq!(state.requests.len(), 2);
        assert!(state.watches.is_empty(), "nor is it left behind");
    });
}

#[tokio::test]
async fn a_watch_whose_lease_ran_out_is_shown_to_its_end_and_made_anew() {
    for only_changed in [false, true] {
        let scene = Scene::new().await;
        let order = Order {
            count: Some(3),
            shape: Shape {
                only_changed,
                ..Shape::default()
            },
            ..one()
        };
        let busy = |watch_id| v1::NetIoSample {
            sent_bytes: 5,
            ..waiting(watch_id)
        };
        let collector = async {
            scene.lose().await;
            scene.collector.tick(&[busy("w-1")]);
            scene.collector.tick(&[]);
            scene.collector.with(|state| state.watches.clear());
            scene.collector.come_back();
            scene.narrowed(&["w-2"]).await;
            assert_eq!(scene.asked_since(), after(3));
            scene.collector.with(|state| {
                let asked: Vec<bool> = state
                    .subscriptions
                    .iter()
                    .map(|it| it.only_changed)
                    .collect();
                let [.., until_the_end, then] = asked.as_slice() else {
                    panic!("{asked:?}");
                };
                assert!(!until_the_end, "that shows where it ends");
                assert_eq!(*then, only_changed);
            });
            scene.collector.tick(&[busy("w-2")]);
        };
        let shown = scene.through(&order, collector).await;
        assert_eq!(shown.outcome, Ok(()));
        assert_eq!(sequences(&shown), [1, 2, 4]);
        let said = "port 1 is watched anew: its watch had ended, and its totals begin anew\n";
        assert!(shown.notes.ends_with(said), "{}", shown.notes);
    }
}

#[tokio::test]
async fn an_exit_that_the_history_tells_is_the_end() {
    let scene = Scene::new().await;
    let collector = async {
        scene.lose().await;
        scene.collector.tick(&[exited("w-1")]);
        scene.collector.tick(&[]);
        scene.collector.with(|state| state.watches.clear());
        scene.collector.come_back();
    };
    let shown = scene.through(&one(), collector).await;
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(sequences(&shown), [1, 2]);
    assert_eq!(scene.collector.with(|state| state.requests.len()), 1);
}

#[tokio::test]
async fn sums_go_on_and_tell_what_is_missing() {
    let scene = Scene::new().await;
    let order = Order {
        count: Some(2),
        shape: Shape {
            interval: Some(Duration::from_secs(10)),
            ..Shape::default()
        },
        ..one()
    };
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        scene.collector.sum(10, &[waiting("w-1")]);
        scene.collector.go_down();
        scene.collector.sum(10, &[waiting("w-1")]);
        scene.collector.come_back();
        scene.narrowed(&["w-1"]).await;
        scene.collector.sum(10, &[waiting("w-1")]);
    };
    let shown = scene.through(&order, collector).await;
    assert_eq!(sequences(&shown), [10, 30]);
    assert!(
        shown.notes.contains("10 tick(s) are missing"),
        "{}",
        shown.notes
    );
    scene.collector.with(|state| {
        let ten = Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        });
        for asked in &state.subscriptions {
            assert_eq!((asked.interval, asked.since), (ten, None));
        }
    });
}

#[tokio::test]
async fn patience_ends() {
    let scene = Scene::new().await;
    let mut order = one();
    order.patience.limit = Duration::from_millis(200);
    let shown = scene.through(&order, scene.lose()).await;
    let failure = shown.outcome.unwrap_err().to_string();
    assert!(
        failure.contains("trying again for 200ms was in vain\n"),
        "{failure}"
    );
    assert!(
        failure.contains("end by themselves within 1 s: w-1"),
        "{failure}"
    );
}

#[tokio::test]
async fn streams_that_break_off_at_once_do_not_go_on_for_ever() {
    let scene = Scene::new().await;
    let mut order = one();
    order.patience.limit = Duration::from_millis(300);
    let collector = async {
        scene.lose().await;
        for _ in 0..100 {
            scene.collector.come_back();
            sleep(Duration::from_millis(10)).await;
            scene.collector.go_down();
        }
    };
    let shown = scene.through(&order, collector).await;
    assert!(shown.outcome.is_err());
    assert_eq!(shown.notes.matches("trying again").count(), 1);
}

#[tokio::test]
async fn the_user_may_leave_while_nobody_answers() {
    let scene = Scene::new().await;
    let mut order = one();
    order.patience.first = Duration::from_secs(5);
    order.patience.longest = Duration::from_secs(5);
    let collector = async {
        scene.lose().await;
        sleep(Duration::from_millis(50)).await;
        scene.stop.cancel();
        Instant::now()
    };
    let (shown, asked) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(
        shown.notes.contains("end by themselves within 1 s: w-1"),
        "{}",
        shown.notes
    );
}

#[tokio::test]
async fn a_refusal_is_not_waited_out() {
    let scene = Scene::new().await;
    let collector = async {
        scene.lose().await;
        scene.collector.with(|state| {
            let why = (Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS");
            state.refused.insert(Call::Narrow, why);
        });
        scene.collector.come_back();
    };
    let shown = scene.through(&one(), collector).await;
    let failure = shown.outcome.unwrap_err().to_string();
    assert!(failure.contains("TOO_MANY_SUBSCRIBERS"), "{failure}");
}
