//! `watch --detach`: makes standing watches and shows them. All are made, or
//! none is left.

use netio::v1::{self, watch_request::Life};
use tokio_util::sync::CancellationToken;

use super::list::Row;
use crate::{
    align::align, args::Format, failure::Failure, json, output, process, rpc::Rpc, wanted::Wanted,
};

/// Runs it.
pub(crate) async fn run(
    rpc: &Rpc,
    wanted: &Wanted,
    format: Format,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut made = Vec::new();
    for (target, request) in wanted.requests(Life::Standing(true)) {
        if stop.is_cancelled() {
            return take_back(rpc, made, Ok(())).await;
        }
        match rpc.watch(request).await {
            Ok(watch) => made.push(v1::Watch {
                // Our own words, and not those of the collector.
                target: Some(target.clone()),
                ..watch
            }),
            Err(failure) => return take_back(rpc, made, Err(failure)).await,
        }
    }
    let rows: Vec<Row> = made.into_iter().map(Row::from).collect();
    let text = match format {
        Format::Table => Ok(table(&rows)),
        Format::Json => rows.iter().map(json::line).collect(),
    };
    text.and_then(|text| output::print(&text))
        .map_err(|failure| {
            // They stand all the same, and nobody knows their ids.
            let ids: Vec<String> = rows.iter().map(|row| row.watch_id.clone()).collect();
            failure.leaving_standing(&ids, rpc.origin())
        })
}

/// Ends what was made after all. The first failure is the news.
async fn take_back(
    rpc: &Rpc,
    made: Vec<v1::Watch>,
    outcome: Result<(), Failure>,
) -> Result<(), Failure> {
    let mut left = Vec::new();
    let mut ended = Ok(());
    for watch in made {
        if let Err(failure) = rpc.end(watch.watch_id.clone()).await {
            left.push(watch.watch_id);
            ended = Err(failure);
        }
    }
    outcome
        .and(ended)
        .map_err(|failure| failure.leaving_standing(&left, rpc.origin()))
}

fn table(rows: &[Row]) -> String {
    let lines = rows
        .iter()
        .map(|row| [row.watch_id.clone(), row.target.clone(), matches(row)]);
    align(&lines.collect::<Vec<_>>())
}

/// The processes that match now.
fn matches(row: &Row) -> String {
    let count = process::count(row.process_count.into());
    match process::names(&row.processes, row.process_count.into()) {
        names if names.is_empty() => format!("{count} yet"),
        names => format!("{count}: {names}"),
    }
}
