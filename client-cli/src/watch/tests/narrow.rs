//! A stream of everything that is changed for one of the own watches.

use super::*;
use crate::model::State;

#[tokio::test]
async fn other_watches_are_neither_shown_nor_in_the_way() {
    let bench = Bench::new();
    let (own, other) = (Idler::new(), Idler::new());
    let rpc = bench.rpc();
    rpc.watch(request_for(other.pid())).await.unwrap();
    let (outcome, lines, notes) = bench.watch(&[own.pid()], Some(5)).await;
    assert_eq!((outcome, notes.as_str()), (Ok(()), ""));
    assert!(lines.iter().all(|line| line["pid"] == own.pid()));
    // The stream was changed for a narrower one, and no tick was lost by it.
    let sequences = column(&lines, "sequence");
    assert!(
        sequences.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{sequences:?}"
    );
    assert_eq!(rpc.list().await.unwrap().len(), 1, "the other watch lives");
}

#[tokio::test]
async fn the_stream_is_narrowed_once_and_survives_a_refusal() {
    let bench = Bench::new();
    let (own, other) = (Idler::new(), Idler::new());
    let rpc = bench.rpc();
    let watch = rpc.watch(request_for(own.pid())).await.unwrap();
    rpc.watch(request_for(other.pid())).await.unwrap();

    let mut ticks = Ticks::of_everything(&rpc, Shape::default()).await.unwrap();
    assert_eq!(ticks.next().await.unwrap().samples.len(), 2);
    assert!(!ticks.narrow(&rpc, vec!["w-unknown".to_owned()]).await);
    assert_eq!(ticks.next().await.unwrap().samples.len(), 2);
    // What was refused for some watches may be given for others, and stays.
    assert!(ticks.narrow(&rpc, vec![watch.watch_id]).await);
    assert!(ticks.narrow(&rpc, vec!["w-unknown".to_owned()]).await);
    assert_eq!(ticks.next().await.unwrap().samples.len(), 1);
}

#[tokio::test]
async fn ticks_from_before_the_narrower_stream_are_not_lost() {
    let bench = Bench::new();
    let (own, mut gone) = (Idler::new(), Idler::new());
    let rpc = bench.rpc();
    let watch = rpc.watch(request_for(own.pid())).await.unwrap();
    rpc.watch(request_for(gone.pid())).await.unwrap();

    let mut ticks = Ticks::of_everything(&rpc, Shape::default()).await.unwrap();
    let mut last = ticks.next().await.unwrap().sequence;
    // Its only last sample is in a tick that is not read yet.
    bench.kernel.traffic(gone.pid(), 5, 0);
    let pid = gone.pid();
    gone.end();
    until(|| bench.kernel.with(|state| !state.allowed.contains_key(&pid))).await;
    sleep(INTERVAL * 3).await;
    ticks.narrow(&rpc, vec![watch.watch_id]).await;

    let mut sent_by_gone = Vec::new();
    for _ in 0..10 {
        let tick = ticks.next().await.unwrap();
        assert_eq!((tick.sequence, tick.skipped_ticks), (last + 1, 0));
        last = tick.sequence;
        let exited = tick
            .samples
            .iter()
            .filter(|sample| sample.state == State::Exited);
        sent_by_gone.extend(exited.map(|sample| sample.sent.bytes_total));
    }
    assert_eq!(sent_by_gone, [5]);
    let info = rpc.info().await.unwrap();
    assert_eq!(info.subscribers, 1, "the wide stream is closed");
}
