//! `unwatch`: ends watches that the caller made earlier.

use std::mem;

use netio::v1::unwatch_request::Selector;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Unwatch,
    conn::{Connection, Embedding, Wish},
    failure::Failure,
    output,
    rpc::Rpc,
    text,
};

/// Runs it.
pub(crate) async fn run(args: Unwatch) -> Result<(), Failure> {
    let by_id = args.watch_ids.into_iter().map(Selector::WatchId);
    let by_target = args.selector.target().map(Selector::Target);
    let selectors: Vec<Selector> = by_id.chain(by_target).collect();
    let wish = Wish::new(args.connect, Embedding::Pointless)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let shown = end(&connection.rpc, selectors).await;
    connection.close(shown).await
}

/// Ends each, whatever becomes of the others, and tells every failure.
async fn end(rpc: &Rpc, selectors: Vec<Selector>) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for selector in selectors {
        match rpc.unwatch(selector).await {
            Ok(ids) => {
                let lines = ids.iter().map(|id| format!("ended {}\n", text::line(id)));
                output::print(&lines.collect::<String>())?;
            }
            Err(failure) => {
                if let Err(earlier) = mem::replace(&mut outcome, Err(failure)) {
                    output::note(&format!("error: {earlier}"));
                }
            }
        }
    }
    outcome
}
