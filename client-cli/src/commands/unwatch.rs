//! `unwatch`: ends watches that the caller made earlier.

use netio::v1::unwatch_request::Selector;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Unwatch,
    conn::{Connection, Wish},
    failure::Failure,
    output, rpc, text,
};

/// Runs it.
pub(crate) async fn run(args: Unwatch) -> Result<(), Failure> {
    let selector = match (args.watch_id, args.pid) {
        (Some(watch_id), _) => Selector::WatchId(watch_id),
        (None, Some(pid)) => Selector::Target(rpc::target(pid)),
        (None, None) => {
            return Err(Failure::new(
                "nothing was named to be ended",
                "give a WATCH_ID or --pid",
            ));
        }
    };
    let wish = Wish::new(args.connect.endpoint, None)?;
    let connection = Connection::open(wish, CancellationToken::new()).await?;
    let ended = connection.rpc.unwatch(selector).await;
    let shown = ended.and_then(|ids| {
        let lines = ids.iter().map(|id| format!("ended {}\n", text::line(id)));
        output::print(&lines.collect::<String>())
    });
    connection.close(shown).await
}
