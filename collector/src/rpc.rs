//! The API: `netio.v1.NetIoService`.
//!
//! Takes requests, validates them, turns each into a command for the sampler or
//! a subscription at the hub, and produces answers or a status (see [`status`]).
//! Holds no state of its own.
#![forbid(unsafe_code)]

use std::sync::Arc;

use netio::v1::{self, net_io_service_server::NetIoService, target, unwatch_request};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::{
    Limits, hub::Hub, process::Processes, sampler::Commands, server::Peer, watches::Selection,
};

mod status;
mod stream;
#[cfg(test)]
mod tests;

use status::status;
pub(crate) use stream::SampleStream;

/// What the service works with.
pub(crate) struct Service {
    pub(crate) processes: Arc<dyn Processes>,
    pub(crate) commands: Commands,
    pub(crate) hub: Arc<Hub>,
    pub(crate) limits: Limits,
    /// What GetCollectorInfo answers, but for what changes.
    pub(crate) about: v1::CollectorInfo,
    /// Ends open streams.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl NetIoService for Service {
    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<v1::WatchResponse>, Status> {
        let owner = owner(&request)?;
        let target = request.into_inner().target.unwrap_or_default();
        let pid = pid(target)?
            .ok_or_else(|| missing("TARGET_MISSING", "the request says not what to watch"))?;
        let found = self.processes.find(pid)?;
        let watch = self.commands.watch(target, found, owner).await?;
        Ok(Response::new(v1::WatchResponse { watch: Some(watch) }))
    }

    async fn unwatch(
        &self,
        request: Request<v1::UnwatchRequest>,
    ) -> Result<Response<v1::UnwatchResponse>, Status> {
        let owner = owner(&request)?;
        let selection = match request.into_inner().selector {
            Some(unwatch_request::Selector::WatchId(id)) => Some(Selection::Id(id)),
            Some(unwatch_request::Selector::Target(target)) => pid(target)?.map(Selection::Pid),
            None => None,
        };
        let selection = selection.ok_or_else(|| {
            let what = "the request says not which watches to end: set watch_id, or a target";
            missing("SELECTOR_MISSING", what)
        })?;
        let watch_ids = self.commands.unwatch(selection, owner).await?;
        Ok(Response::new(v1::UnwatchResponse { watch_ids }))
    }

    async fn list_watches(
        &self,
        _: Request<v1::ListWatchesRequest>,
    ) -> Result<Response<v1::ListWatchesResponse>, Status> {
        let watches = self.commands.list().await?;
        Ok(Response::new(v1::ListWatchesResponse { watches }))
    }

    type SubscribeStream = SampleStream;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<SampleStream>, Status> {
        let watch_ids = request.into_inner().watch_ids;
        let limit = self.limits.max_watch_ids_per_subscription;
        if watch_ids.len() > limit as usize {
            let message = format!(
                "{} watch ids are too many: name at most {limit}, or none to get every watch",
                watch_ids.len()
            );
            let limit = ("limit", limit.to_string());
            let reason = "TOO_MANY_WATCH_IDS";
            return Err(status(Code::InvalidArgument, reason, message, [limit]));
        }
        self.commands.find(watch_ids.clone()).await?;
        let subscription = self.hub.subscribe()?;
        let stream = SampleStream::new(subscription, watch_ids, self.stop.clone());
        Ok(Response::new(stream))
    }

    async fn get_collector_info(
        &self,
        _: Request<v1::GetCollectorInfoRequest>,
    ) -> Result<Response<v1::GetCollectorInfoResponse>, Status> {
        let vitals = self.commands.vitals().await?;
        let info = v1::CollectorInfo {
            missed_events: Some(vitals.missed_events),
            missed_ticks: vitals.missed_ticks,
            subscribers: self.hub.subscribers(),
            ..self.about.clone()
        };
        Ok(Response::new(v1::GetCollectorInfoResponse {
            info: Some(info),
        }))
    }
}

fn owner<T>(request: &Request<T>) -> Result<String, Status> {
    match request.extensions().get::<Peer>() {
        Some(peer) => Ok(peer.owner.clone()),
        None => Err(Status::internal("the connection does not tell who calls")),
    }
}

/// The pid that a target selects; `None` if it selects nothing.
fn pid(target: v1::Target) -> Result<Option<u32>, Status> {
    match target.selector {
        Some(target::Selector::Pid(pid)) if i32::try_from(pid).is_ok_and(|pid| pid > 0) => {
            Ok(Some(pid))
        }
        Some(target::Selector::Pid(pid)) => {
            let message = format!(
                "{pid} is no process id: give one from 1 to {}, as `ps` shows it",
                i32::MAX
            );
            let pid = ("pid", pid.to_string());
            Err(status(Code::InvalidArgument, "PID_INVALID", message, [pid]))
        }
        None => Ok(None),
    }
}

fn missing(reason: &str, message: &str) -> Status {
    status(Code::InvalidArgument, reason, message, [])
}
