//! Keeps leases that no stream holds: takes the ids of the watches concerned,
//! as they change, and renews their leases until it is dropped.
//!
//! A renewal that fails is no news by itself: the next may succeed, and a watch
//! that ends all the same is noticed where its samples are missing.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::watch::Receiver, time::sleep};

use crate::rpc::Rpc;

/// Renews the leases of `unheld`, each time that `pause` has passed.
pub(super) async fn keep(rpc: &Rpc, unheld: Receiver<Vec<String>>, pause: Duration) -> Infallible {
    loop {
        sleep(pause).await;
        let watch_ids = unheld.borrow().clone();
        if !watch_ids.is_empty() {
            renew(rpc, watch_ids).await;
        }
    }
}

/// All at once if possible. The collector renews none if it refuses one, such as
/// one that has just ended, or if there are too many: then one by one.
async fn renew(rpc: &Rpc, watch_ids: Vec<String>) {
    if rpc.renew(watch_ids.clone()).await.is_ok() || watch_ids.len() == 1 {
        return;
    }
    for watch_id in watch_ids {
        let _ = rpc.renew(vec![watch_id]).await;
    }
}
