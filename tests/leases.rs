//! Leases: a watch lives as long as somebody wants it, whatever becomes of who
//! made it.
//!
//! Times are compared in one direction only. A watch that is still there was not
//! ended too early, at whatever time it is looked for; that it is gone is known at
//! the earliest look that does not find it, which must not be before the lease
//! ran out, nor long after.

mod support;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use netio::v1::{
    ListWatchesRequest, RenewWatchesRequest, SubscribeRequest, SubscribeResponse, Target,
    UnwatchRequest, Watch, WatchRequest, net_io_service_client::NetIoServiceClient,
    unwatch_request, watch_request::Life,
};
use rustix::process::Signal;
use support::{
    Collector, PATIENCE, Result, listed, next_tick, program, puppets::Puppets, reason,
    servers::free_address, signal, skip, wait,
};
use tonic::{Streaming, transport::Channel};

type Client = NetIoServiceClient<Channel>;

/// The shortest that the tests ask for.
const TTL: Duration = Duration::from_secs(2);
/// What may pass between the end of a lease and that of its watch.
const SLACK: Duration = Duration::from_secs(2);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(50);

/// A watch of this process, as long-lived as that.
fn leased(ttl: Duration) -> Result<WatchRequest> {
    Ok(WatchRequest {
        life: Some(Life::LeaseTtl(ttl.try_into()?)),
        ..WatchRequest::new(Target::pid(std::process::id()))
    })
}

async fn renew(client: &mut Client, watches: &[&str]) -> std::result::Result<(), tonic::Status> {
    let watch_ids = watches.iter().map(|id| (*id).to_owned()).collect();
    let request = RenewWatchesRequest { watch_ids };
    client.renew_watches(request).await.map(drop)
}

async fn subscribe(client: &mut Client, watch: &Watch) -> Result<Streaming<SubscribeResponse>> {
    let request = SubscribeRequest::new(vec![watch.watch_id.clone()]);
    Ok(client.subscribe(request).await?.into_inner())
}

/// What is left of a watch's lease, and whether a stream holds it.
async fn left(client: &mut Client, watch: &Watch) -> Result<(Duration, bool)> {
    let lease = listed(client, watch)
        .await?
        .ok_or("the watch is gone")?
        .lease;
    let lease = lease.ok_or("it has no lease")?;
    let remaining = lease.remaining.ok_or("nothing is said to remain")?;
    Ok((remaining.try_into()?, lease.held))
}

/// Waits until the watch is gone, which must be `ttl` after `since` or a little
/// later: nothing has renewed it after that, and nothing had let it run down
/// before.
async fn runs_out(client: &mut Client, watch: &Watch, since: Instant, ttl: Duration) -> Result {
    while listed(client, watch).await?.is_some() {
        assert!(
            since.elapsed() <= ttl + SLACK,
            "{watch:?} is still there {:?} later",
            since.elapsed()
        );
        tokio::time::sleep(GLANCE).await;
    }
    let age = since.elapsed();
    assert!(age >= ttl, "{watch:?} was gone after {age:?}");
    Ok(())
}

/// Looks for the watch all that time: it must be there.
async fn stays(client: &mut Client, watch: &Watch, time: Duration) -> Result {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(
            listed(client, watch).await?.is_some(),
            "{watch:?} was gone after {:?}",
            start.elapsed()
        );
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// A collector, and who speaks to it.
async fn collector() -> Result<(Collector, Client)> {
    let collector = Collector::start(&["--interval", "200ms"])?;
    let client = attached(collector.connect().await?).await?;
    Ok((collector, client))
}

/// It answers once its hooks are attached, which is no part of any lease.
async fn attached(mut client: Client) -> Result<Client> {
    client.list_watches(ListWatchesRequest {}).await?;
    Ok(client)
}

#[tokio::test]
async fn fault_11_a_client_that_is_killed_leaves_only_what_others_have() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (collector, mut client, mut other) = two_owners(free_address()?).await?;
    let mut puppets = Puppets::new()?;
    let watched = puppets.start()?;
    // Of the same process, by another owner, and as long-lived as its stream.
    let theirs = WatchRequest {
        target: Some(Target::pid(watched)),
        ..leased(TTL)?
    };
    let theirs = support::request(&mut other, theirs).await?;
    let mut their_ticks = subscribe(&mut other, &theirs).await?;
    let pid = watched.to_string();
    let mut program = program("netio-client")
        .args(["watch", "--pid", &pid, "--output", "json"])
        .args(["--endpoint", &collector.endpoint()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(program.stdout.take().ok_or("no output")?).lines();
    lines.next().ok_or("it says nothing")??;
    // It goes on reading, so that the client goes on.
    let reader = std::thread::spawn(move || lines.count());
    let list = client.list_watches(ListWatchesRequest {}).await?;
    let watches = list.into_inner().watches;
    let [left, watch] = watches.as_slice() else {
        panic!("{watches:?}");
    };
    assert_eq!(left.watch_id, theirs.watch_id);
    let lease = watch.lease.ok_or("its watch has no lease")?;
    let ttl = Duration::try_from(lease.ttl.ok_or("a lease without time")?)?;
    assert!(
        ttl <= Duration::from_secs(10),
        "{ttl:?} is too long to wait"
    );

    // As long as it lives, so does its watch.
    stays(&mut client, watch, ttl + SLACK).await?;
    assert!(program.try_wait()?.is_none(), "the client ended by itself");
    let killed = Instant::now();
    signal(&program, Signal::KILL)?;
    wait(&mut program, PATIENCE)?;
    while listed(&mut client, watch).await?.is_some() {
        let age = killed.elapsed();
        assert!(age <= ttl + SLACK, "the watch is there {age:?} later");
        tokio::time::sleep(GLANCE).await;
    }
    println!(
        "a killed client's watch was gone after {:.1} s (its lease: {ttl:?})",
        killed.elapsed().as_secs_f64()
    );
    reader.join().map_err(|_| "the reader panicked")?;

    // The other's watch goes on, and counts on.
    puppets.send(watched, 4_321)?;
    let sample = support::settled(&mut their_ticks).await?;
    assert_eq!(sample.sent_bytes_total, 4_321);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_nobody_renews_runs_out() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (_collector, mut client) = collector().await?;
    let since = Instant::now();
    let watch = support::request(&mut client, leased(TTL)?).await?;
    let (remaining, held) = left(&mut client, &watch).await?;
    assert!(remaining <= TTL && !held, "{remaining:?}, held: {held}");
    runs_out(&mut client, &watch, since, TTL).await?;
    let gone = renew(&mut client, &[&watch.watch_id]).await;
    assert_eq!(reason(gone.map(tonic::Response::new))?, "WATCH_NOT_FOUND");
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_renewed_goes_on_until_it_is_not() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (_collector, mut client) = collector().await?;
    let watch = support::request(&mut client, leased(TTL)?).await?;
    let mut renewed = Instant::now();
    let start = renewed;
    while start.elapsed() < 3 * TTL {
        renewed = Instant::now();
        renew(&mut client, &[&watch.watch_id]).await?;
        stays(&mut client, &watch, TTL / 8).await?;
    }
    // One that names a watch which is not there renews none.
    let before = left(&mut client, &watch).await?.0;
    let refused = renew(&mut client, &[&watch.watch_id, "no-such-watch"]).await;
    assert_eq!(
        reason(refused.map(tonic::Response::new))?,
        "WATCH_NOT_FOUND"
    );
    let after = left(&mut client, &watch).await?.0;
    assert!(after <= before, "{before:?} were left, and {after:?} then");
    runs_out(&mut client, &watch, renewed, TTL).await
}

#[tokio::test]
async fn a_stream_that_names_the_watch_holds_its_lease() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (_collector, mut client) = collector().await?;
    let watch = support::request(&mut client, leased(TTL)?).await?;
    let mut ticks = subscribe(&mut client, &watch).await?;
    next_tick(&mut ticks).await?;
    stays(&mut client, &watch, 3 * TTL).await?;
    let (remaining, held) = left(&mut client, &watch).await?;
    assert!(held && remaining <= TTL, "{remaining:?}, held: {held}");
    let since = Instant::now();
    drop(ticks);
    runs_out(&mut client, &watch, since, remaining).await
}

#[tokio::test]
async fn a_stream_of_all_watches_holds_none() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (_collector, mut client) = collector().await?;
    let all = client.subscribe(SubscribeRequest::default()).await?;
    let mut all = all.into_inner();
    next_tick(&mut all).await?;
    let since = Instant::now();
    let watch = support::request(&mut client, leased(TTL)?).await?;
    assert!(!left(&mut client, &watch).await?.1);
    runs_out(&mut client, &watch, since, TTL).await
}

#[tokio::test]
async fn a_lease_is_from_a_second_to_what_the_limits_say() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (_collector, mut client) = collector().await?;
    for wrong in [Duration::ZERO, Duration::from_secs(7 * 24 * 3600)] {
        let refused = client.watch(leased(wrong)?).await;
        assert_eq!(reason(refused)?, "LEASE_INVALID", "{wrong:?}");
    }
    let watches = client.list_watches(ListWatchesRequest {}).await?;
    assert_eq!(
        watches.into_inner().watches,
        [],
        "a refused call left these"
    );
    let shortest = Duration::from_secs(1);
    support::request(&mut client, leased(shortest)?).await?;
    Ok(())
}

#[tokio::test]
async fn fault_11_a_watch_is_its_owners_alone() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let address = free_address()?;
    let (_collector, mut owner, mut other) = two_owners(address).await?;
    let since = Instant::now();
    let watch = support::request(&mut owner, leased(2 * TTL)?).await?;
    let theirs = support::request(&mut other, leased(2 * TTL)?).await?;
    assert_ne!(watch.owner, theirs.owner);
    assert_eq!(theirs.owner, "ip:127.0.0.1");

    let refused = renew(&mut other, &[&theirs.watch_id, &watch.watch_id]).await;
    assert_eq!(reason(refused.map(tonic::Response::new))?, "NOT_THE_OWNER");
    let by_id = unwatch_request::Selector::WatchId(watch.watch_id.clone());
    let refused = other.unwatch(UnwatchRequest {
        selector: Some(by_id),
    });
    assert_eq!(reason(refused.await)?, "NOT_THE_OWNER");
    // By target, it means the caller's own.
    let target = unwatch_request::Selector::Target(Target::pid(std::process::id()));
    let ended = other.unwatch(UnwatchRequest {
        selector: Some(target),
    });
    assert_eq!(ended.await?.into_inner().watch_ids, [theirs.watch_id]);

    // Another's stream shows the watch, and does not hold it.
    let mut ticks = subscribe(&mut other, &watch).await?;
    next_tick(&mut ticks).await?;
    assert!(!left(&mut owner, &watch).await?.1);
    runs_out(&mut owner, &watch, since, 2 * TTL).await
}

/// A collector with a client on its Unix socket and one on TCP, which are two
/// owners.
async fn two_owners(address: SocketAddr) -> Result<(Collector, Client, Client)> {
    let tcp = format!("tcp://{address}");
    let collector = Collector::start(&["--interval", "200ms", "--listen", &tcp])?;
    let owner = attached(collector.connect().await?).await?;
    let start = Instant::now();
    loop {
        match Client::connect(format!("http://{address}")).await {
            Ok(other) => return Ok((collector, owner, other)),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(GLANCE).await,
        }
    }
}
