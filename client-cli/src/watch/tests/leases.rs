//! What keeps the watches alive while the client is, and no longer.

use netio::v1::watch_request::Life;
use tokio::io::duplex;
use tonic::Code;

use super::{
    bench::{Scene, order},
    scripted::{Call, running, waiting},
    *,
};

const PORTS: [u16; 2] = [1, 2];
/// Several pauses between renewals.
const A_WHILE: Duration = Duration::from_millis(400);

fn ports() -> impl Iterator<Item = v1::Target> {
    PORTS.into_iter().map(v1::Target::port)
}

impl Scene {
    fn refuse(&self, call: Call) {
        let why = (Code::ResourceExhausted, "TOO_MANY_WATCH_IDS");
        self.collector.with(|state| state.refused.insert(call, why));
    }

    fn renewals(&self) -> Vec<Vec<String>> {
        self.collector.with(|state| state.renewals.clone())
    }

    /// Waits for a while in which a stream holds the leases, so that no renewal
    /// is asked for.
    async fn stays_unrenewed(&self) {
        // One may have been under way.
        sleep(A_WHILE / 4).await;
        let renewals = self.renewals().len();
        sleep(A_WHILE).await;
        assert_eq!(self.renewals().len(), renewals);
    }

    /// Waits until so many renewals of these watches were asked for.
    async fn renewed(&self, times: usize, watch_ids: &[&str]) {
        until(|| {
            let renewals = self.renewals();
            renewals.iter().filter(|it| *it == watch_ids).count() >= times
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_names_the_watches_holds_them_without_renewals() {
    let scene = Scene::new().await;
    let order = order(ports(), 2);
    let collector = async {
        scene.narrowed(&["w-1", "w-2"]).await;
        scene.stays_unrenewed().await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
        until(|| scene.collector.streams().len() == 1).await;
        assert_eq!(scene.collector.streams(), [["w-1", "w-2"]]);
        scene.stays_unrenewed().await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(shown.lines.lines().count(), 4);
    scene.collector.with(|state| {
        let ttl = prost_types::Duration {
            seconds: 0,
            nanos: 150_000_000,
        };
        for request in &state.requests {
            assert_eq!(request.life, Some(Life::LeaseTtl(ttl)));
        }
        assert!(state.watches.is_empty(), "they end with the command");
    });
}

#[tokio::test]
async fn where_no_stream_may_name_them_they_are_renewed() {
    let scene = Scene::new().await;
    scene.refuse(Call::Narrow);
    let order = order(ports(), 1);
    let collector = async {
        scene.renewed(3, &["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(shown.lines.lines().count(), 2, "{}", shown.lines);
}

#[tokio::test]
async fn one_that_cannot_be_renewed_does_not_cost_the_others_theirs() {
    let scene = Scene::new().await;
    scene.refuse(Call::Narrow);
    let order = order(ports(), 1);
    let collector = async {
        scene.renewed(1, &["w-1", "w-2"]).await;
        scene.collector.with(|state| state.watches.remove("w-1"));
        scene.renewed(2, &["w-2"]).await;
        scene.collector.tick(&[waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
}

#[tokio::test]
async fn they_are_renewed_while_further_ones_are_made() {
    let scene = Scene::new().await;
    scene.collector.with(|state| state.delay = A_WHILE);
    let order = order(ports(), 1);
    let collector = async {
        scene.renewed(2, &["w-1"]).await;
        let made = scene.collector.with(|state| state.watches.len());
        assert_eq!(made, 1, "the second is not made yet");
        scene.narrowed(&["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
}

#[tokio::test]
async fn they_are_renewed_while_the_terminal_stands_still() {
    let scene = Scene::new().await;
    scene.refuse(Call::Narrow);
    let order = order(ports(), 9);
    // Takes less than a line, and nobody reads.
    let (out, _reader) = duplex(16);
    let mut output = Output {
        out,
        err: Vec::new(),
    };
    let rpc = &scene.connection.rpc;
    let watching = run(rpc, &order, View::Json, &mut output, &scene.stop);
    let collector = async {
        scene.renewed(1, &["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
        sleep(A_WHILE).await;
        let before = scene.renewals().len();
        scene.renewed(before + 3, &["w-1", "w-2"]).await;
        scene.stop.cancel();
    };
    let (outcome, ()) = tokio::join!(watching, collector);
    assert_eq!(outcome, Ok(()));
}

#[tokio::test]
async fn a_refused_stream_is_asked_for_again_when_a_watch_has_ended() {
    let scene = Scene::new().await;
    scene.refuse(Call::Narrow);
    let order = order(ports(), 3);
    let collector = async {
        scene.renewed(1, &["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
        scene.collector.with(|state| {
            state.refused.clear();
            state.watches.remove("w-1");
        });
        let mut gone = running("w-1", scripted::process(7, "db"));
        gone.state = v1::ProcessState::Exited.into();
        scene.collector.tick(&[gone, waiting("w-2")]);
        scene.narrowed(&["w-2"]).await;
        scene.stays_unrenewed().await;
        scene.collector.tick(&[waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert_eq!(shown.lines.lines().count(), 5, "{}", shown.lines);
}

#[tokio::test]
async fn what_could_not_be_ended_is_told_to_end_by_itself() {
    let scene = Scene::new().await;
    let why = (Code::Unavailable, "SOMETHING");
    scene
        .collector
        .with(|state| state.refused.insert(Call::Unwatch, why));
    let order = order(ports(), 1);
    let collector = async {
        scene.narrowed(&["w-1", "w-2"]).await;
        scene.collector.tick(&[waiting("w-1"), waiting("w-2")]);
    };
    let (shown, ()) = tokio::join!(scene.watch(&order, View::Json), collector);
    assert_eq!(shown.outcome, Ok(()));
    assert!(
        shown
            .notes
            .contains("end by themselves within 1 s: w-1 w-2"),
        "{}",
        shown.notes
    );
}
