//! The calls of the API, each bounded in time: takes plain values, produces
//! plain values or a [`Failure`] in words.

use std::{future::Future, time::Duration};

use netio::{
    Channel,
    v1::{self, net_io_service_client::NetIoServiceClient},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status, Streaming};

use crate::{
    failure::{Failure, Origin},
    target, text,
};

/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long a call that is under way may go on after the user asked to stop.
/// It is not cut off at once, because a watch could be made and not be known.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The largest message that is taken. Lists of processes can be longer than the
/// 4 MiB that are the library's own limit.
const LARGEST_MESSAGE: usize = 16 << 20;

/// A collector that can be called.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    client: NetIoServiceClient<Channel>,
    origin: Origin,
    stop: CancellationToken,
}

impl Rpc {
    /// Calls through `channel`. `stop` tells that the user wants to leave.
    pub(crate) fn new(channel: Channel, origin: Origin, stop: CancellationToken) -> Self {
        Self {
            client: NetIoServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE),
            origin,
            stop,
        }
    }

    /// Where the calls go.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Makes a watch.
    pub(crate) async fn watch(&self, request: v1::WatchRequest) -> Result<v1::Watch, Failure> {
        let target = request.target.clone().unwrap_or_default();
        let mut client = self.client.clone();
        let answer = self
            .bounded(client.watch(request))
            .await
            .map_err(|status| Failure::of_watch(&target, &status, &self.origin))?;
        answer
            .watch
            .filter(|watch| !watch.watch_id.is_empty())
            .filter(|watch| text::line(&watch.watch_id) == watch.watch_id)
            .ok_or_else(|| Failure::of_answer("a watch without a valid id", &self.origin))
    }

    /// Renews the leases of watches of one's own.
    pub(crate) async fn renew(&self, watch_ids: Vec<String>) -> Result<(), Failure> {
        let mut client = self.client.clone();
        self.bounded(client.renew_watches(v1::RenewWatchesRequest { watch_ids }))
            .await
            .map_err(|status| self.failure("renew the watches", &status))?;
        Ok(())
    }

    /// Ends what `selector` names and returns the ids of the watches ended.
    pub(crate) async fn unwatch(
        &self,
        selector: v1::unwatch_request::Selector,
    ) -> Result<Vec<String>, Failure> {
        let doing = match &selector {
            v1::unwatch_request::Selector::WatchId(id) => format!("end watch {}", text::line(id)),
            v1::unwatch_request::Selector::Target(target) => {
                format!("end your watches of {}", target::describe(target))
            }
        };
        let request = v1::UnwatchRequest {
            selector: Some(selector),
        };
        let mut client = self.client.clone();
        let answer = self.bounded(client.unwatch(request)).await;
        Ok(answer
            .map_err(|status| self.failure(&doing, &status))?
            .watch_ids)
    }

    /// Ends a watch of one's own. One that has ended by itself is as good.
    pub(crate) async fn end(&self, watch_id: String) -> Result<(), Failure> {
        let doing = format!("end watch {}", text::line(&watch_id));
        let request = v1::UnwatchRequest {
            selector: Some(v1::unwatch_request::Selector::WatchId(watch_id)),
        };
        let mut client = self.client.clone();
        match self.bounded(client.unwatch(request)).await {
            Err(status) if status.code() != Code::NotFound => Err(self.failure(&doing, &status)),
            _ => Ok(()),
        }
    }

    /// Every watch of the collector.
    pub(crate) async fn list(&self) -> Result<Vec<v1::Watch>, Failure> {
        let mut client = self.client.clone();
        let answer = self
            .bounded(client.list_watches(v1::ListWatchesRequest {}))
            .await;
        Ok(answer
            .map_err(|status| self.failure("list the watches", &status))?
            .watches)
    }

    /// The database servers on the collector's host.
    pub(crate) async fn discover(&self) -> Result<Vec<v1::Database>, Failure> {
        let mut client = self.client.clone();
        let answer = self.bounded(client.discover(v1::DiscoverRequest {})).await;
        Ok(answer
            .map_err(|status| self.failure("look for database servers", &status))?
            .databases)
    }

    /// What the collector is.
    pub(crate) async fn info(&self) -> Result<v1::CollectorInfo, Failure> {
        let mut client = self.client.clone();
        self.bounded(client.get_collector_info(v1::GetCollectorInfoRequest {}))
            .await
            .map_err(|status| self.failure("get the collector's information", &status))?
            .info
            .ok_or_else(|| Failure::of_answer("no information", &self.origin))
    }

    /// Opens a stream of ticks.
    pub(crate) async fn subscribe(
        &self,
        request: v1::SubscribeRequest,
    ) -> Result<Streaming<v1::SubscribeResponse>, Failure> {
        let mut client = self.client.clone();
        self.bounded(client.subscribe(request))
            .await
            .map_err(|status| self.failure("subscribe", &status))
    }

    fn failure(&self, doing: &str, status: &Status) -> Failure {
        Failure::of_call(doing, status, &self.origin)
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_LIMIT).await;
        };
        tokio::select! {
            answer = timeout(CALL_LIMIT, call) => match answer {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {CALL_LIMIT:?}"))),
            },
            () = stopped => Err(Status::cancelled("stopped before the collector answered")),
        }
    }
}
