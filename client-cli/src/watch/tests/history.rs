//! Watches that exist already, and what was before.

use netio::v1::{WatchRequest, net_io_service_server::NetIoService as _, subscribe_request::Since};

use super::{
    bench::{Scene, Shown, order},
    scripted::{process, running, waiting},
    *,
};

/// When the scripted tick of this sequence was.
fn time_of(sequence: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + sequence).unwrap()
}

fn existing(existing: Existing, count: u64) -> Order {
    Order {
        subject: Subject::Existing(existing),
        ..order([], count)
    }
}

fn by_port(since: i64) -> Existing {
    Existing {
        targets: vec![v1::Target::port(1)],
        since: Some(time_of(since)),
        ..Existing::default()
    }
}

fn by_id(watch_id: &str, since: Option<i64>) -> Existing {
    Existing {
        watch_ids: vec![watch_id.to_owned()],
        since: since.map(time_of),
        ..Existing::default()
    }
}

impl Scene {
    /// Somebody else watches port 1, as w-1, from tick 0 on.
    async fn watched(&self) {
        let request = WatchRequest::new(v1::Target::port(1)).standing();
        let request = tonic::Request::new(request);
        self.collector.watch(request).await.unwrap();
    }

    /// Ticks that are sent when the stream of the watch is open.
    async fn then(&self, ticks: usize) {
        self.narrowed(&["w-1"]).await;
        for _ in 0..ticks {
            self.collector.tick(&[waiting("w-1")]);
        }
    }
}

fn sequences(shown: &Shown) -> Vec<u64> {
    column(&parse(shown.lines.as_bytes()), "sequence")
}

#[tokio::test]
async fn the_history_comes_first_and_then_what_follows() {
    let scene = Scene::new().await;
    scene.watched().await;
    for _ in 0..5 {
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
    }
    let order = existing(by_port(3), 5);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), scene.then(2));
    assert_eq!((shown.outcome.clone(), shown.notes.as_str()), (Ok(()), ""));
    assert_eq!(sequences(&shown), [3, 4, 5, 6, 7]);
    let lines = parse(shown.lines.as_bytes());
    assert!(lines.iter().all(|line| line["target"] == "port 1"));
    scene.collector.with(|state| {
        assert_eq!(state.requests.len(), 1, "none is made");
        assert_eq!(state.watches.len(), 1, "none is ended");
        assert!(state.renewals.is_empty());
        let since = state.subscriptions[0].since;
        let time = prost_types::Timestamp {
            seconds: time_of(3).as_second(),
            nanos: 0,
        };
        assert_eq!(since, Some(Since::Time(time)));
    });
}

#[tokio::test]
async fn ticks_from_before_the_watch_do_not_end_it() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        scene.collector.tick(&[]);
    }
    scene.watched().await;
    let order = existing(by_port(1), 1);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), scene.then(1));
    assert_eq!((shown.outcome.clone(), shown.notes.as_str()), (Ok(()), ""));
    assert_eq!(sequences(&shown), [4]);
}

#[tokio::test]
async fn a_history_that_begins_later_than_asked_for_is_told() {
    let scene = Scene::new().await;
    scene.watched().await;
    for _ in 0..3 {
        scene.collector.tick(&[waiting("w-1")]);
    }
    let order = existing(by_port(-300), 3);
    let shown = scene.watch(&order, View::Json).await;
    assert_eq!(
        shown.notes,
        "netio-client: the history begins at 2023-11-14T22:13:20Z, which is later than asked for\n"
    );
}

#[tokio::test]
async fn what_nobody_watches_is_refused() {
    let scene = Scene::new().await;
    let order = existing(by_port(0), 1);
    let shown = scene.watch(&order, View::Json).await;
    let failure = shown.outcome.unwrap_err().to_string();
    assert!(failure.contains("nothing watches port 1"), "{failure}");
    assert!(scene.collector.with(|state| state.requests.is_empty()));
}

#[tokio::test]
async fn a_watch_by_its_id_is_shown_from_now_on_until_it_is_ended() {
    let scene = Scene::new().await;
    scene.watched().await;
    scene.collector.tick(&[waiting("w-1")]);
    let order = existing(by_id("w-1", None), 99);
    let collector = async {
        scene.then(2).await;
        scene.collector.tick(&[]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(sequences(&shown), [2, 3]);
    assert_eq!(
        shown.notes,
        "netio-client: no more samples of port 1: its watch was ended, or its lease ran out\n"
    );
}

/// A tick for the stream that asks how far the history goes.
async fn mark(scene: &Scene) {
    until(|| scene.collector.streams() == [Vec::<String>::new()]).await;
    scene.collector.tick(&[]);
}

#[tokio::test]
async fn a_watch_that_has_ended_is_shown_out_of_the_history() {
    for only_changed in [false, true] {
        let scene = Scene::new().await;
        scene.collector.tick(&[]);
        let db = running("w-9", process(7, "db"));
        scene.collector.tick(&[v1::NetIoSample {
            sent_bytes: 5,
            ..db.clone()
        }]);
        scene.collector.tick(&[db]);
        scene.collector.tick(&[]);
        let order = Order {
            shape: Shape {
                only_changed,
                ..Shape::default()
            },
            ..existing(by_id("w-9", Some(1)), 99)
        };
        let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), mark(&scene));
        assert_eq!(shown.outcome, Ok(()));
        let expected: &[u64] = if only_changed { &[2] } else { &[2, 3] };
        assert_eq!(sequences(&shown), expected);
        assert_eq!(parse(shown.lines.as_bytes())[0]["target"], "watch w-9");
        assert!(shown.notes.contains("no more samples of watch w-9"));
    }
}

#[tokio::test]
async fn an_id_that_the_history_does_not_know_is_refused() {
    let scene = Scene::new().await;
    scene.collector.tick(&[]);
    let order = existing(by_id("w-9", Some(1)), 99);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), mark(&scene));
    let failure = shown.outcome.unwrap_err().to_string();
    assert!(failure.starts_with("there is no watch w-9\n"), "{failure}");
}

#[tokio::test]
async fn a_found_watch_ends_with_a_collector_that_is_restarted() {
    let scene = Scene::new().await;
    scene.watched().await;
    let order = existing(by_id("w-1", None), 99);
    let collector = async {
        scene.then(1).await;
        scene.collector.go_down();
        scene.collector.restart();
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    let failure = shown.outcome.unwrap_err().to_string();
    assert!(failure.contains("the watches ended with it"), "{failure}");
}

fn only_changed(count: u64) -> Order {
    Order {
        shape: Shape {
            only_changed: true,
            ..Shape::default()
        },
        ..order([v1::Target::port(1), v1::Target::port(2)], count)
    }
}

#[tokio::test]
async fn idle_watches_make_no_lines_and_are_not_taken_for_lost() {
    let scene = Scene::new().await;
    let busy = |watch_id| v1::NetIoSample {
        sent_bytes: 5,
        ..waiting(watch_id)
    };
    let collector = async {
        scene.narrowed(&["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
        scene.collector.tick(&[]);
        // As from a stream that begins.
        scene.collector.tick(&[waiting("w-1"), busy("w-2")]);
        scene.collector.tick(&[]);
        scene.collector.tick(&[running("w-1", process(7, "db"))]);
    };
    let order = only_changed(3);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!((shown.outcome.clone(), shown.notes.as_str()), (Ok(()), ""));
    assert_eq!(sequences(&shown), [1, 1, 3, 5]);
    scene.collector.with(|state| {
        assert!(state.subscriptions.iter().all(|it| it.only_changed));
    });
}

#[tokio::test]
async fn a_watch_that_was_ended_is_noticed_though_idle_ones_are_left_out() {
    let scene = Scene::new().await;
    let collector = async {
        scene.narrowed(&["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
        scene.collector.with(|state| state.watches.clear());
    };
    let order = only_changed(99);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    for target in ["port 1", "port 2"] {
        let note = format!("no more samples of {target}: its watch was ended by somebody else");
        assert!(shown.notes.contains(&note), "{}", shown.notes);
    }
}

#[tokio::test]
async fn sums_of_several_ticks_are_no_gap_and_are_divided_by_their_time() {
    let scene = Scene::new().await;
    let busy = || v1::NetIoSample {
        sent_bytes: 10_000,
        ..running("w-1", process(7, "db"))
    };
    let order = Order {
        shape: Shape {
            interval: Some(Duration::from_secs(10)),
            ..Shape::default()
        },
        ..order([v1::Target::port(1)], 3)
    };
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        // Less than a whole one at first.
        for ticks in [4, 10, 10] {
            scene.collector.sum(ticks, &[busy()]);
        }
    };
    let view = super::bench::table();
    let (shown, ()) = tokio::join!(scene.watch(&order, view), collector);
    assert_eq!((shown.outcome.clone(), shown.notes.as_str()), (Ok(()), ""));
    let last = shown.lines.lines().last().unwrap();
    assert!(last.contains("  1000 B "), "{last}");
}
