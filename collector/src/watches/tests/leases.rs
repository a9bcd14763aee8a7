//! Leases run out, are renewed and held.

use super::*;

#[tokio::test]
async fn a_lease_that_runs_out_ends_the_watch() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.add(7, "a").unwrap();
    let held = bench
        .watches
        .hold(&["w-2".to_owned()], "a", false, bench.now)
        .unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(bench.watches.next_expiry(), Some(bench.now + TTL));
    assert_eq!(bench.watches.expire(bench.now + TTL), [WatchId(1)]);
    drop(held);
    assert_eq!(bench.allowed(), [7]);
    assert_eq!(bench.watches.expire(bench.now + 2 * TTL), [WatchId(2)]);
    assert!(bench.allowed().is_empty() && bench.tick().is_empty());
}

#[tokio::test]
async fn leases_are_renewed_and_held_by_their_owner_only() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.add(7, "b").unwrap();
    let both = ["w-1".to_owned(), "w-2".to_owned()];
    let later = bench.now + TTL / 2;
    let refused = bench.watches.renew(&both, "a", later).unwrap_err();
    assert!(matches!(refused, WatchError::NotTheOwner { .. }));
    // None was renewed; and a hold is on one's own alone.
    let held = bench.watches.hold(&both, "b", false, bench.now).unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(bench.watches.expire(bench.now + TTL), [WatchId(1)]);
    bench.watches.renew(&both[1..], "b", later).unwrap();
    let unknown = bench.watches.renew(&both, "b", later).unwrap_err();
    assert!(matches!(unknown, WatchError::NotFound { .. }));
}
