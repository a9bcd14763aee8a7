//! Watches of more than one process, and of none yet.

use netio::v1::target::Selector;

use super::{
    bench::{Scene, Shown, order, table},
    scripted::{process, running, waiting},
    *,
};

fn mariadb() -> v1::Target {
    v1::Target::port(3306)
}

/// Watches `target` through these ticks, of one sample each.
async fn through(scene: &Scene, order: &Order, view: View, ticks: &[v1::NetIoSample]) -> Shown {
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        for sample in ticks {
            scene.collector.tick(std::slice::from_ref(sample));
        }
    };
    let (shown, ()) = tokio::join!(scene.watch(order, view), collector);
    assert_eq!(shown.outcome, Ok(()));
    shown
}

#[tokio::test]
async fn a_rule_waits_and_goes_on_with_the_process_that_comes() {
    let scene = Scene::new().await;
    let after = |pid| v1::NetIoSample {
        process: Some(process(pid, "mariadbd")),
        ..waiting("w-1")
    };
    let ticks = [
        waiting("w-1"),
        running("w-1", process(7, "mariadbd")),
        after(7),
        running("w-1", process(8, "mariadbd")),
        running("w-1", process(8, "mariadbd")),
    ];
    let shown = through(&scene, &order([mariadb()], 5), View::Json, &ticks).await;
    let told: Vec<_> = parse(shown.lines.as_bytes())
        .into_iter()
        .map(|line| {
            assert_eq!(line["target"], "port 3306");
            (line["state"].clone(), line["pid"].clone())
        })
        .collect();
    let [waits, null] = [Value::from("waiting"), Value::Null];
    let runs = |pid: u32| (Value::from("running"), Value::from(pid));
    assert_eq!(
        told,
        [
            (waits.clone(), null.clone()),
            runs(7),
            (waits, null),
            runs(8),
            runs(8)
        ]
    );
    assert_eq!(shown.notes, "netio-client: mariadbd runs anew: pid 8\n");
    assert!(scene.collector.with(|state| state.requests[0].wait));
}

#[tokio::test]
async fn a_rule_whose_end_the_collector_tells_is_over() {
    let scene = Scene::new().await;
    let mut gone = running("w-1", process(7, "mariadbd"));
    gone.state = v1::ProcessState::Exited.into();
    let shown = through(&scene, &order([mariadb()], 99), View::Json, &[gone]).await;
    assert_eq!(parse(shown.lines.as_bytes())[0]["state"], "exited");
}

#[tokio::test]
async fn the_table_of_a_rule_shows_how_many_there_are_or_that_it_waits() {
    let scene = Scene::new().await;
    let mut several = running("w-1", process(7, "mariadbd"));
    several.process_count = 12;
    let ticks = [waiting("w-1"), waiting("w-1"), several];
    let shown = through(&scene, &order([mariadb()], 3), table(), &ticks).await;
    let lines: Vec<&str> = shown.lines.lines().collect();
    assert_eq!(lines.len(), 3, "one that waits is shown once: {lines:#?}");
    assert!(lines[0].contains("  PROCS  "), "{lines:#?}");
    assert!(lines[1].contains("        -  port 3306 "), "{lines:#?}");
    assert!(lines[1].ends_with("  waiting"), "{lines:#?}");
    assert!(
        lines[2].contains("  mariadbd            12  "),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn the_table_of_a_pid_has_room_for_its_children_only_if_they_are_followed() {
    for follow in [true, false] {
        let scene = Scene::new().await;
        let db = process(7, "postgres");
        scene.collector.start(Selector::Pid(7), db.clone());
        let target = v1::Target::pid(7).following_children(follow);
        let ticks = [running("w-1", db)];
        let shown = through(&scene, &order([target], 1), table(), &ticks).await;
        assert_eq!(shown.lines.contains("PROCS"), follow, "{}", shown.lines);
    }
}

#[tokio::test]
async fn the_processes_that_a_rule_matches_are_named_if_they_are_several() {
    for (pids, said) in [
        (7..8, ""),
        (
            7..10,
            "netio-client: port 3306 is 3 processes: 7 db, 8 db, 9 db\n",
        ),
    ] {
        let scene = Scene::new().await;
        for pid in pids {
            let selector = Selector::Port(3306);
            scene.collector.start(selector, process(pid, "db"));
        }
        let ticks = [running("w-1", process(7, "db"))];
        let shown = through(&scene, &order([mariadb()], 1), View::Json, &ticks).await;
        assert_eq!(shown.notes, said);
    }
}

/// A sample with a process that moved bytes and one that did not.
fn with_parts() -> v1::NetIoSample {
    let part = |pid, sent_bytes| v1::ProcessSample {
        process: Some(process(pid, "postgres")),
        state: v1::ProcessState::Running.into(),
        sent_bytes,
        ..v1::ProcessSample::default()
    };
    v1::NetIoSample {
        processes: vec![part(7, 0), part(8, 50)],
        unlisted: Some(v1::ProcessSample {
            sent_bytes: 4,
            ..v1::ProcessSample::default()
        }),
        sent_bytes: 54,
        ..running("w-1", process(7, "postgres"))
    }
}

#[tokio::test]
async fn each_process_is_shown_if_that_is_asked_for() {
    let scene = Scene::new().await;
    let order = Order {
        shape: Shape {
            per_process: true,
            ..Shape::default()
        },
        ..order([mariadb()], 1)
    };
    let shown = through(&scene, &order, View::Json, &[with_parts()]).await;
    assert!(scene.collector.is_asked_per_process());
    let told: Vec<_> = parse(shown.lines.as_bytes())
        .into_iter()
        .map(|line| (line["scope"].clone(), line["sent_bytes"].clone()))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(scope, sent)| (scope.as_str().unwrap(), sent.as_u64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("watch", 54),
            ("process", 0),
            ("process", 50),
            ("unlisted", 4)
        ]
    );

    let scene = Scene::new().await;
    let shown = through(&scene, &order, table(), &[with_parts()]).await;
    let lines: Vec<&str> = shown.lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(
        lines[2].trim_start().starts_with("8    postgres "),
        "{lines:#?}"
    );
    assert!(
        lines[3].trim_start().starts_with("-    (others) "),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn processes_without_a_line_of_their_own_are_told_once() {
    let scene = Scene::new().await;
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        for count in [5, 5, 7, 8] {
            scene.collector.with(|state| state.map_full = count);
            scene.collector.tick(&[waiting("w-1")]);
        }
    };
    let order = order([mariadb()], 4);
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(
        shown.notes,
        "netio-client: 2 processes have no line of their own (the sums hold their bytes)\n"
    );
    let lines = parse(shown.lines.as_bytes());
    assert_eq!(column(&lines, "map_full_processes"), [5, 5, 7, 8]);
}

/// A sample of so many bytes on its way.
fn of_size(bytes: usize) -> v1::NetIoSample {
    const PATH: usize = 4096;
    let part = |pid| v1::ProcessSample {
        process: Some(v1::Process {
            cgroup: "x".repeat(PATH),
            ..process(pid, "db")
        }),
        ..v1::ProcessSample::default()
    };
    let parts = u32::try_from(bytes / PATH).unwrap();
    v1::NetIoSample {
        processes: (1..parts).map(part).collect(),
        ..running("w-1", process(7, "db"))
    }
}

#[tokio::test]
async fn large_ticks_are_taken_up_to_a_limit() {
    let scene = Scene::new().await;
    let ticks = [of_size(15 << 20)];
    let order = order([mariadb()], 1);
    let shown = through(&scene, &order, table(), &ticks).await;
    assert_eq!(shown.lines.lines().count(), 2);

    let scene = Scene::new().await;
    let collector = async {
        scene.narrowed(&["w-1"]).await;
        scene.collector.tick(&[of_size(17 << 20)]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, table()), collector);
    assert!(shown.outcome.is_err());
}
