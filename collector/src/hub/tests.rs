//! The hub with a paused clock: what each subscriber gets, and what it costs.

use prost::Message as _;
use tokio_stream::StreamExt as _;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn hub(max_subscribers: u32) -> Hub {
    Hub::new(HubOptions {
        max_subscribers,
        interval: SECOND,
        max_history: 60 * SECOND,
        max_history_bytes: 1 << 20,
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
async fn a_slow_subscriber_skips_and_another_misses_nothing() {
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
async fn a_slow_subscriber_holds_one_tick_only() {
    let hub = hub(8);
    let slow = subscribe(&hub);
    publish(&hub, 1, vec![]);
    let first = Arc::downgrade(&hub.newest.borrow().clone().unwrap());
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

fn every(seconds: u32) -> Wanted {
    Wanted {
        interval: Some(seconds * SECOND),
        ..Wanted::default()
    }
}

#[tokio::test(start_paused = true)]
async fn longer_intervals_are_sums_at_the_clocks_multiples() {
    let hub = hub(8);
    publish(&hub, 3, vec![sample("a", 100, 100)]);
    let mut slow = hub.subscribe(every(5)).unwrap();
    let mut total = 100;
    for sequence in 4..=11 {
        total += sequence;
        let samples = match sequence {
            6 => vec![sample("a", 6, total), exited("b", 77)],
            _ => vec![sample("a", sequence, total)],
        };
        publish(&hub, sequence, samples);
        if sequence == 5 {
            // The first is what there is of its interval.
            let first = next(&mut slow).await;
            assert_eq!((first.sequence, first.ticks), (5, 2));
            assert_eq!(first.samples, [sample("a", 9, 109)]);
        }
    }
    let second = next(&mut slow).await;
    assert_eq!(
        (second.sequence, second.ticks, second.skipped_ticks),
        (10, 5, 0)
    );
    assert_eq!(second.interval.unwrap().seconds, 5);
    assert_eq!(second.samples, [sample("a", 40, 149), exited("b", 77)]);
    assert!(is_silent(&mut slow).await);
    // Nobody wants it any more.
    drop(slow);
    publish(&hub, 12, vec![]);
    assert!(lock(&hub.slower).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_sums_is_told_of_the_ticks_it_skipped() {
    let hub = hub(8);
    let mut slow = hub.subscribe(every(2)).unwrap();
    for sequence in 1..=9 {
        publish(&hub, sequence, vec![sample("a", 1, sequence)]);
        if sequence == 2 {
            next(&mut slow).await;
        }
    }
    let newest = next(&mut slow).await;
    assert_eq!(
        (newest.sequence, newest.ticks, newest.skipped_ticks),
        (8, 2, 4)
    );
}

#[tokio::test(start_paused = true)]
async fn parts_are_summed_up_too() {
    let hub = hub(8);
    let part = |pid: u32, sent_bytes: u64| v1::ProcessSample {
        process: Some(v1::Process {
            pid,
            ..v1::Process::default()
        }),
        sent_bytes,
        sent_bytes_total: 10 * sent_bytes,
        ..v1::ProcessSample::default()
    };
    let mut wanted = every(2);
    wanted.filter.per_process = true;
    let mut slow = hub.subscribe(wanted).unwrap();
    let with = |parts: Vec<v1::ProcessSample>| v1::NetIoSample {
        processes: parts,
        ..sample("a", 0, 0)
    };
    publish(&hub, 1, vec![with(vec![part(7, 1), part(8, 10)])]);
    publish(&hub, 2, vec![with(vec![part(8, 20), part(9, 5)])]);
    let parts = next(&mut slow).await.samples.remove(0).processes;
    let sums: Vec<_> = parts
        .iter()
        .map(|it| (it.sent_bytes, it.sent_bytes_total))
        .collect();
    assert_eq!(sums, [(1, 10), (30, 200), (5, 50)]);
}

#[test]
fn intervals_that_are_not_offered_are_refused() {
    let hub = hub(100);
    for wanted in [
        SECOND / 2,
        SECOND * 3 / 2,
        Duration::ZERO,
        MAX_INTERVAL + SECOND,
    ] {
        let wanted = Wanted {
            interval: Some(wanted),
            ..Wanted::default()
        };
        let refused = hub.subscribe(wanted).err().unwrap();
        assert!(
            matches!(refused, SubscribeError::Interval { .. }),
            "{refused}"
        );
    }
    let held: Vec<_> = (2..18).map(|n| hub.subscribe(every(n)).unwrap()).collect();
    let refused = hub.subscribe(every(60)).err().unwrap();
    assert!(matches!(refused, SubscribeError::TooManyIntervals));
    hub.subscribe(every(2)).unwrap();
    hub.subscribe(every(1)).unwrap();
    drop(held);
}

fn since(since: Since) -> Wanted {
    Wanted {
        since: Some(since),
        ..Wanted::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_history_goes_on_live_without_gap_or_double() {
    let hub = hub(8);
    for sequence in 1..=5 {
        publish(&hub, sequence, vec![sample("a", 1, sequence)]);
    }
    let mut late = hub.subscribe(since(Since::After(2))).unwrap();
    for sequence in 3..=4 {
        assert_eq!(next_two(&mut late).await, (sequence, 0));
    }
    // Meanwhile ticks pass; more than one place could hold.
    for sequence in 6..=8 {
        publish(&hub, sequence, vec![sample("a", 1, sequence)]);
    }
    for sequence in 5..=8 {
        let message = next(&mut late).await;
        assert_eq!((message.sequence, message.skipped_ticks), (sequence, 0));
        assert_eq!(message.samples[0].sent_bytes_total, sequence);
    }
    assert!(is_silent(&mut late).await);
    publish(&hub, 9, vec![]);
    assert_eq!(next_two(&mut late).await, (9, 0));
    // It stays without gaps where the history has what it missed.
    for sequence in 10..=12 {
        publish(&hub, sequence, vec![]);
    }
    for sequence in 10..=12 {
        assert_eq!(next_two(&mut late).await, (sequence, 0));
    }
    assert!(is_silent(&mut late).await);
}

#[tokio::test(start_paused = true)]
async fn the_history_is_filtered_like_the_rest() {
    let hub = hub(8);
    for sequence in 1..=4 {
        let moved = u64::from(sequence == 3);
        publish(
            &hub,
            sequence,
            vec![sample("a", moved, 7), sample("b", 1, sequence)],
        );
    }
    let mut wanted = since(Since::Time(SystemTime::UNIX_EPOCH + 2 * SECOND));
    wanted.filter = Filter {
        watch_ids: ["a".to_owned()].into(),
        only_changed: true,
        ..Filter::default()
    };
    let mut late = hub.subscribe(wanted).unwrap();
    for (sequence, told) in [(2, &["a"][..]), (3, &["a"]), (4, &[])] {
        let message = next(&mut late).await;
        assert_eq!((message.sequence, ids(&message)), (sequence, told.to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_or_to_come_is_said() {
    let hub = hub(8);
    let refused = hub.subscribe(since(Since::After(1))).err().unwrap();
    assert!(matches!(refused, SubscribeError::Future { after: 1 }));
    hub.subscribe(since(Since::After(0))).unwrap();
    for sequence in 1..=200 {
        publish(&hub, sequence, vec![]);
        tokio::time::advance(SECOND).await;
    }
    let oldest = hub.oldest();
    assert!((130..150).contains(&oldest), "{oldest}");
    let refused = hub
        .subscribe(since(Since::After(oldest - 2)))
        .err()
        .unwrap();
    assert!(matches!(refused, SubscribeError::Gone { oldest: told, .. } if told == oldest));
    let mut late = hub.subscribe(since(Since::After(oldest - 1))).unwrap();
    assert_eq!(next(&mut late).await.sequence, oldest);
    // A time before all of it: all there is. One to come: the next.
    let mut all = hub
        .subscribe(since(Since::Time(SystemTime::UNIX_EPOCH)))
        .unwrap();
    assert_eq!(next(&mut all).await.sequence, oldest);
    let future = SystemTime::UNIX_EPOCH + 1000 * SECOND;
    let mut none = hub.subscribe(since(Since::Time(future))).unwrap();
    assert!(is_silent(&mut none).await);
    let (ticks, bytes) = (hub.cost().history_ticks, hub.cost().history_bytes);
    assert_eq!(u64::from(ticks), 201 - oldest);
    assert!(bytes > 0 && bytes < 1 << 20, "{bytes}");
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
    let reader = hub.newest.borrow().clone();
    assert_eq!(publish(&hub, 3, vec![]), []);
    drop(reader);
}
