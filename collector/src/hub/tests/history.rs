//! Ticks of the past, for who comes late or was slow.

use super::*;

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
