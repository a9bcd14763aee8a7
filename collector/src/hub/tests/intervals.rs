//! Longer intervals: sums of ticks.

use super::*;

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
