//! The hub with a paused clock: what each subscriber gets, and what it costs.

use prost::Message as _;
use tokio_stream::StreamExt as _;

use super::*;

mod history;
mod intervals;
mod newest;
mod newest_in_every_order;

const SECOND: Duration = Duration::from_secs(1);

fn hub(max_subscribers: u32) -> Hub {
    Hub::new(HubOptions {
        max_subscribers,
        interval: SECOND,
        max_history: 60 * SECOND,
        max_history_bytes: 1 << 20,
        last_sequence: 0,
    })
}

fn subscribe(hub: &Hub) -> Subscription {
    hub.subscribe(Wanted::default()).unwrap()
}

fn with_filter(hub: &Hub, filter: Filter) -> Subscription {
    let wanted = Wanted {
        filter,
        ..Wanted::default()
    };
    hub.subscribe(wanted).unwrap()
}

fn sample(watch_id: &str, sent_bytes: u64, sent_bytes_total: u64) -> v1::NetIoSample {
    v1::NetIoSample {
        watch_id: watch_id.to_owned(),
        state: v1::ProcessState::Running.into(),
        sent_bytes,
        sent_bytes_total,
        ..v1::NetIoSample::default()
    }
}

fn exited(watch_id: &str, total: u64) -> v1::NetIoSample {
    v1::NetIoSample {
        state: v1::ProcessState::Exited.into(),
        ..sample(watch_id, 0, total)
    }
}

/// Sequence N is read at second N of the wall clock.
fn publish(hub: &Hub, sequence: u64, samples: Vec<v1::NetIoSample>) -> Vec<v1::NetIoSample> {
    hub.publish(v1::SubscribeResponse {
        sequence,
        time: Some(prost_types::Timestamp {
            seconds: i64::try_from(sequence).unwrap(),
            nanos: 100,
        }),
        interval: SECOND.try_into().ok(),
        ticks: 1,
        samples,
        ..v1::SubscribeResponse::default()
    })
}

fn decode(message: Prepared) -> v1::SubscribeResponse {
    v1::SubscribeResponse::decode(message.0).unwrap()
}

async fn next(subscription: &mut Subscription) -> v1::SubscribeResponse {
    decode(subscription.next().await.unwrap())
}

async fn next_two(subscription: &mut Subscription) -> (u64, u64) {
    let message = next(subscription).await;
    (message.sequence, message.skipped_ticks)
}

/// Whether nothing comes.
async fn is_silent(subscription: &mut Subscription) -> bool {
    let wait = tokio::time::timeout(9 * SECOND, subscription.next());
    wait.await.is_err()
}

fn ids(message: &v1::SubscribeResponse) -> Vec<&str> {
    message
        .samples
        .iter()
        .map(|it| it.watch_id.as_str())
        .collect()
}

#[tokio::test]
async fn the_first_message_is_the_next_tick() {
    let hub = hub(8);
    publish(&hub, 6, vec![]);
    let mut subscription = subscribe(&hub);
    publish(&hub, 7, vec![]);
    assert_eq!(next_two(&mut subscription).await, (7, 0));
    publish(&hub, 8, vec![]);
    assert_eq!(next_two(&mut subscription).await, (8, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_before_a_tick() {
    let hub = hub(8);
    publish(&hub, 1, vec![]);
    assert!(is_silent(&mut subscribe(&hub)).await);
}

#[tokio::test]
async fn fault_02_a_slow_subscriber_skips_and_another_misses_nothing() {
    let hub = hub(8);
    let mut slow = subscribe(&hub);
    let mut quick = subscribe(&hub);
    publish(&hub, 1, vec![]);
    assert_eq!(next_two(&mut slow).await, (1, 0));
    assert_eq!(next_two(&mut quick).await, (1, 0));
    for sequence in 2..=6 {
        publish(&hub, sequence, vec![]);
        assert_eq!(next_two(&mut quick).await, (sequence, 0));
    }
    assert_eq!(next_two(&mut slow).await, (6, 4));
    publish(&hub, 7, vec![]);
    assert_eq!(next_two(&mut slow).await, (7, 0));
    assert_eq!(hub.cost().skipped_ticks, 4);
    assert_eq!(hub.cost().sent_messages, 9);
}

#[tokio::test]
async fn fault_02_a_pause_of_thirty_ticks_is_told_as_thirty_with_exact_totals() {
    let hub = hub(8);
    let mut paused = subscribe(&hub);
    let sent = |total| v1::NetIoSample {
        watch_id: "w".to_owned(),
        sent_bytes: 1_001,
        sent_bytes_total: total,
        ..v1::NetIoSample::default()
    };
    publish(&hub, 1, vec![sent(1_001)]);
    assert_eq!(next(&mut paused).await.skipped_ticks, 0);
    for sequence in 2..=32 {
        publish(&hub, sequence, vec![sent(1_001 * sequence)]);
    }
    let after = next(&mut paused).await;
    assert_eq!((after.sequence, after.skipped_ticks), (32, 30));
    let of_it = after.samples.iter().find(|it| it.watch_id == "w").unwrap();
    assert_eq!(of_it.sent_bytes_total, 32 * 1_001);
}

async fn late_totals(subscription: &mut Subscription) -> Vec<u64> {
    let message = next(subscription).await;
    let late = message.samples.iter().filter(|it| it.watch_id != "now");
    late.map(|sample| sample.sent_bytes_total).collect()
}

#[tokio::test]
async fn a_watch_that_ends_in_a_skipped_tick_is_told_late_and_once() {
    let hub = hub(8);
    publish(&hub, 1, vec![exited("a", 11)]); // before anybody subscribed
    let mut slow = subscribe(&hub);
    let mut other = with_filter(
        &hub,
        Filter {
            watch_ids: ["now".to_owned()].into(),
            ..Filter::default()
        },
    );
    publish(&hub, 2, vec![]);
    next(&mut slow).await;
    next(&mut other).await;
    publish(&hub, 3, vec![exited("b", 22)]);
    publish(&hub, 4, vec![]);
    assert_eq!(late_totals(&mut slow).await, [22]);
    publish(&hub, 5, vec![]);
    publish(&hub, 6, vec![exited("c", 55)]);
    publish(&hub, 7, vec![exited("now", 66)]);
    assert_eq!(late_totals(&mut slow).await, [55]);
    publish(&hub, 8, vec![]);
    assert!(late_totals(&mut slow).await.is_empty());
    // Who does not want a watch is not told of its end.
    assert!(late_totals(&mut other).await.is_empty());
}

#[tokio::test]
async fn last_samples_are_kept_up_to_a_limit() {
    let hub = hub(8);
    let mut slow = subscribe(&hub);
    publish(&hub, 1, vec![]);
    next(&mut slow).await;
    let ends = tick::MAX_LAST_SAMPLES as u64 + 10;
    for sequence in 2..=ends {
        publish(&hub, sequence, vec![exited("x", sequence)]);
    }
    publish(&hub, ends + 1, vec![]);
    let totals = late_totals(&mut slow).await;
    assert_eq!(totals.len(), tick::MAX_LAST_SAMPLES);
    assert_eq!(totals.last(), Some(&ends));
}

#[tokio::test]
async fn fault_01_a_stalled_reader_holds_one_tick_only() {
    let hub = hub(8);
    let slow = subscribe(&hub);
    publish(&hub, 1, vec![]);
    let first = Arc::downgrade(&hub.newest.get().unwrap());
    publish(&hub, 2, vec![]);
    assert!(first.upgrade().is_none());
    drop(slow);
}

#[tokio::test]
async fn the_limit_holds_and_a_dropped_subscription_makes_room() {
    let hub = hub(2);
    let first = subscribe(&hub);
    let _second = subscribe(&hub);
    assert_eq!(hub.subscribers(), 2);
    assert!(matches!(
        hub.subscribe(Wanted::default()).err().unwrap(),
        SubscribeError::TooManySubscribers { max_subscribers: 2 }
    ));
    drop(first);
    assert_eq!(hub.subscribers(), 1);
    subscribe(&hub);
}

#[tokio::test]
async fn a_subscription_ends_with_the_hub() {
    let hub = hub(2);
    let mut subscription = subscribe(&hub);
    publish(&hub, 1, vec![]);
    drop(hub);
    assert_eq!(next_two(&mut subscription).await, (1, 0));
    assert!(subscription.next().await.is_none());
}

#[tokio::test]
async fn a_closed_hub_ends_whoever_comes() {
    let hub = hub(8);
    let every_other = || Wanted {
        interval: Some(2 * SECOND),
        ..Wanted::default()
    };
    let mut early = [subscribe(&hub), hub.subscribe(every_other()).unwrap()];
    hub.close();
    let mut late = [subscribe(&hub), hub.subscribe(every_other()).unwrap()];
    for subscription in early.iter_mut().chain(&mut late) {
        assert!(subscription.is_closed());
        assert!(subscription.next().await.is_none());
    }
}

#[tokio::test]
async fn what_many_want_is_encoded_once() {
    let hub = hub(8);
    let one = || Filter {
        watch_ids: ["a".to_owned()].into(),
        ..Filter::default()
    };
    let mut alike: Vec<_> = (0..3).map(|_| with_filter(&hub, one())).collect();
    let mut all = subscribe(&hub);
    publish(&hub, 1, vec![sample("a", 1, 1), sample("b", 2, 2)]);
    let mut places = HashSet::new();
    for subscription in &mut alike {
        let message = subscription.next().await.unwrap();
        places.insert(message.0.as_ptr());
        assert_eq!(ids(&decode(message)), ["a"]);
    }
    assert_eq!(places.len(), 1, "the bytes are shared");
    assert_eq!(ids(&next(&mut all).await), ["a", "b"]);
    // Filters that nobody has any more are forgotten.
    drop(alike);
    publish(&hub, 2, vec![]);
    with_filter(
        &hub,
        Filter {
            only_changed: true,
            ..Filter::default()
        },
    );
    assert_eq!(lock(&hub.filters).len(), 2);
}

#[tokio::test]
async fn parts_go_to_those_who_want_them() {
    let hub = hub(8);
    let mut sums = subscribe(&hub);
    assert!(!hub.wants_processes());
    let mut parts = with_filter(
        &hub,
        Filter {
            per_process: true,
            ..Filter::default()
        },
    );
    assert!(hub.wants_processes());
    let mut whole = sample("a", 3, 3);
    whole.processes = vec![v1::ProcessSample::default(); 2];
    whole.unlisted = Some(v1::ProcessSample::default());
    publish(&hub, 1, vec![whole.clone()]);
    let told = next(&mut parts).await.samples.remove(0);
    assert_eq!(told, whole);
    let told = next(&mut sums).await.samples.remove(0);
    assert_eq!(told, sample("a", 3, 3));
    drop(parts);
    assert!(!hub.wants_processes());
}

#[tokio::test]
async fn only_what_changed_and_nothing_is_lost_by_it() {
    let hub = hub(8);
    let mut changed = with_filter(
        &hub,
        Filter {
            only_changed: true,
            ..Filter::default()
        },
    );
    publish(&hub, 1, vec![sample("a", 0, 5), sample("b", 0, 0)]);
    // The first message tells everything.
    assert_eq!(ids(&next(&mut changed).await), ["a", "b"]);
    publish(&hub, 2, vec![sample("a", 1, 6), sample("b", 0, 0)]);
    assert_eq!(ids(&next(&mut changed).await), ["a"]);
    publish(&hub, 3, vec![sample("a", 0, 6), sample("b", 0, 0)]);
    assert!(ids(&next(&mut changed).await).is_empty());
    // A new watch, and one whose state has changed.
    publish(
        &hub,
        4,
        vec![exited("a", 6), sample("b", 0, 0), sample("c", 0, 0)],
    );
    assert_eq!(ids(&next(&mut changed).await), ["a", "c"]);
    // After skipped ticks, everything: who knows what they had.
    publish(&hub, 5, vec![sample("b", 9, 9), sample("c", 0, 0)]);
    publish(&hub, 6, vec![sample("b", 0, 9), sample("c", 0, 0)]);
    assert_eq!(ids(&next(&mut changed).await), ["b", "c"]);
}

#[tokio::test]
async fn samples_that_nobody_needs_any_more_come_back() {
    let hub = hub(8);
    let mut subscription = subscribe(&hub);
    assert_eq!(publish(&hub, 1, vec![sample("w-1", 1, 1)]), []);
    assert_eq!(next(&mut subscription).await.sequence, 1);
    let before = publish(&hub, 2, vec![sample("w-1", 2, 3)]);
    assert_eq!(before, [sample("w-1", 1, 1)]);
    // Somebody is about to read the second when the third comes.
    let reader = hub.newest.get();
    assert_eq!(publish(&hub, 3, vec![]), []);
    drop(reader);
}
