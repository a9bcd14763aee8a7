//! Intervals, changes and history, over real gRPC.

use netio::v1::subscribe_request::Since;

use super::*;

fn every(duration: Duration) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        interval: duration.try_into().ok(),
        ..v1::SubscribeRequest::default()
    }
}

fn after(generation: u64, sequence: u64) -> v1::SubscribeRequest {
    let point = v1::TickPoint {
        generation,
        sequence,
    };
    v1::SubscribeRequest {
        since: Some(Since::After(point)),
        ..v1::SubscribeRequest::default()
    }
}

async fn refused(client: &mut Client, request: v1::SubscribeRequest) -> Status {
    client.subscribe(request).await.unwrap_err()
}

/// The tick with this sequence, and the collector's generation.
async fn until(client: &mut Client, sequence: u64) -> u64 {
    let all = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(all).await.unwrap().into_inner();
    loop {
        let tick = stream.message().await.unwrap().unwrap();
        if tick.sequence >= sequence {
            return tick.instance.unwrap().generation;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_finds_no_hole() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut client = rig.client();
    let id = watch(&mut client, 7).await;
    rig.kernel.traffic(7, 5, 0);
    let generation = until(&mut client, 4).await;
    rig.kernel.traffic(7, 6, 0);
    let mut request = after(generation, 1);
    request.watch_ids = vec![id.clone()];
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    for sequence in 2..=9 {
        let tick = stream.message().await.unwrap().unwrap();
        assert_eq!(
            (tick.sequence, tick.skipped_ticks, tick.ticks),
            (sequence, 0, 1)
        );
        let total = if sequence < 5 { 5 } else { 11 };
        assert_eq!(tick.samples[0].sent_bytes_total, total, "{sequence}");
    }
    // A watch that is no more has a history all the same.
    let selector = Some(unwatch_request::Selector::WatchId(id.clone()));
    client
        .unwatch(v1::UnwatchRequest { selector })
        .await
        .unwrap();
    let mut request = after(generation, 1);
    request.watch_ids = vec![id.clone()];
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let tick = stream.message().await.unwrap().unwrap();
    assert_eq!(tick.samples[0].watch_id, id);
}

#[tokio::test(start_paused = true)]
async fn a_point_that_is_not_there_is_refused_with_one_that_is() {
    let mut options = Options::default();
    options.limits.max_history = Duration::from_secs(3);
    let rig = Rig::new(options);
    let mut client = rig.client();
    let generation = until(&mut client, 9).await;
    let told = |status: &Status| {
        let metadata = status.get_details_error_info().unwrap().metadata;
        let number = |key: &str| metadata[key].parse::<u64>().unwrap();
        (number("generation"), number("oldest_sequence"))
    };
    let status = refused(&mut client, after(generation, 2)).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let (of, oldest) = told(&status);
    assert_eq!(of, generation);
    assert!((5..9).contains(&oldest), "{oldest}");
    client
        .subscribe(after(generation, oldest - 1))
        .await
        .unwrap();
    // Of another run of the collector.
    let status = refused(&mut client, after(generation + 1, 9)).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(told(&status).0, generation);
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "HISTORY_GONE"
    );

    let status = refused(&mut client, after(generation, 1000)).await;
    assert_refused(&status, Code::InvalidArgument, "SINCE_INVALID", &[]);
    let mut request = after(generation, oldest);
    request.interval = Duration::from_secs(2).try_into().ok();
    let status = refused(&mut client, request).await;
    assert_refused(&status, Code::InvalidArgument, "SINCE_INVALID", &[]);
}

#[tokio::test(start_paused = true)]
async fn slower_messages_are_sums_and_odd_intervals_are_refused() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut client = rig.client();
    watch(&mut client, 7).await;
    let request = every(Duration::from_secs(10));
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    for _ in 0..10 {
        rig.kernel.traffic(7, 3, 1);
        tokio::time::sleep(Duration::from_millis(990)).await;
    }
    let tick = stream.message().await.unwrap().unwrap();
    assert_eq!(tick.ticks, 10);
    assert_eq!(tick.samples[0].sent_bytes, 30);
    assert_eq!(tick.time.unwrap().seconds % 10, 0);
    for odd in [Duration::from_millis(1500), Duration::from_secs(3601)] {
        let status = refused(&mut client, every(odd)).await;
        assert_refused(&status, Code::InvalidArgument, "INTERVAL_INVALID", &[]);
    }
    let negative = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    let request = v1::SubscribeRequest {
        interval: Some(negative),
        ..v1::SubscribeRequest::default()
    };
    let status = refused(&mut client, request).await;
    assert_refused(&status, Code::InvalidArgument, "INTERVAL_INVALID", &[]);
}

#[tokio::test(start_paused = true)]
async fn the_collector_tells_what_it_costs() {
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    until(&mut client, 5).await;
    let request = v1::GetCollectorInfoRequest {};
    let answer = client.get_collector_info(request).await.unwrap();
    let cost = answer.into_inner().info.unwrap().own_cost.unwrap();
    assert_eq!((cost.sent_messages, cost.history_ticks), (5, 5));
    assert!(cost.sent_bytes > 0 && cost.history_bytes > cost.sent_bytes);
    assert!(cost.resident_bytes > 1 << 20, "{}", cost.resident_bytes);
    assert!(cost.tick_lateness.unwrap().max.is_some());
    assert_eq!(cost.program_runs, None);
}
