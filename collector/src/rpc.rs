//! The API: `netio.v1.NetIoService`.
//!
//! Takes requests, has them checked (see [`request`]), turns each into a command for
//! the sampler or a subscription at the hub, and produces answers or a status (see
//! [`status`]).
//! Holds no state of its own.
#![forbid(unsafe_code)]

use std::sync::Arc;

use netio::v1::{self, unwatch_request};
use tonic::{Code, Request, Response, Status};

use crate::{
    Limits,
    access::{Access, Caller, Role},
    enrolment::{Enrolment, Wish},
    hub::{Filter, Hub, Wanted},
    processes::Selector,
    sampler::{Commands, Vitals},
    server::{OpenStreams, Peer},
    service::net_io_service_server::NetIoService,
    watches::Selection,
};

mod codec;
pub(crate) mod request;
pub(crate) mod status;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use codec::ApiCodec;
pub(crate) use status::{
    deadline_exceeded, reader_stalled, reason, request_timeout, timeout_invalid, too_many_answers,
    too_many_calls,
};
pub(crate) use stream::SampleStream;

/// What the service works with.
pub(crate) struct Service {
    pub(crate) enrolment: Enrolment,
    pub(crate) commands: Commands,
    pub(crate) hub: Arc<Hub>,
    pub(crate) limits: Limits,
    /// What GetCollectorInfo answers, but for what changes.
    pub(crate) about: v1::CollectorInfo,
    /// Keeps the record of what is done.
    pub(crate) access: Arc<Access>,
}

#[tonic::async_trait]
impl NetIoService for Service {
    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<v1::WatchResponse>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let what = in_words(request.target.as_ref());
        let entry = self.access.audit.begin(&caller, "Watch", what);
        let made = self.make(request, caller.owner.clone()).await;
        match &made {
            Ok(watch) => entry.end(Ok(&watch.watch_id)),
            Err(status) => entry.end(Err(&reason(status))),
        }
        let watch = Some(made?);
        Ok(Response::new(v1::WatchResponse { watch }))
    }

    async fn unwatch(
        &self,
        request: Request<v1::UnwatchRequest>,
    ) -> Result<Response<v1::UnwatchResponse>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let what = match &request.selector {
            Some(unwatch_request::Selector::WatchId(id)) => id.clone(),
            Some(unwatch_request::Selector::Target(target)) => in_words(Some(target)),
            None => String::new(),
        };
        let entry = self.access.audit.begin(&caller, "Unwatch", what);
        let ended = self.end(request, &caller).await;
        match &ended {
            Ok(watch_ids) => entry.end(Ok(&watch_ids.join(" "))),
            Err(status) => entry.end(Err(&reason(status))),
        }
        let watch_ids = ended?;
        Ok(Response::new(v1::UnwatchResponse { watch_ids }))
    }

    async fn renew_watches(
        &self,
        request: Request<v1::RenewWatchesRequest>,
    ) -> Result<Response<v1::RenewWatchesResponse>, Status> {
        let owner = owner(&request)?;
        let watch_ids = request::renewal(request.into_inner(), &self.limits)?;
        let renewed = self.commands.renew(watch_ids, owner.clone()).await;
        renewed.map_err(|error| {
            let status = Status::from(error);
            if status.code() == Code::PermissionDenied {
                let audit = &self.access.audit;
                audit.refused(&owner, "RenewWatches", "", &reason(&status));
            }
            status
        })?;
        Ok(Response::new(v1::RenewWatchesResponse {}))
    }

    async fn list_watches(
        &self,
        _: Request<v1::ListWatchesRequest>,
    ) -> Result<Response<v1::ListWatchesResponse>, Status> {
        let watches = self.commands.list().await?;
        let watches = self.enrolment.describe(watches).await?;
        Ok(Response::new(v1::ListWatchesResponse { watches }))
    }

    async fn discover(
        &self,
        _: Request<v1::DiscoverRequest>,
    ) -> Result<Response<v1::DiscoverResponse>, Status> {
        let databases = self.enrolment.databases().await?;
        Ok(Response::new(v1::DiscoverResponse { databases }))
    }

    type SubscribeStream = SampleStream;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<SampleStream>, Status> {
        let owner = owner(&request)?;
        let connection = connection(&request)?;
        let (limits, generation) = (&self.limits, self.generation());
        let request::Subscription {
            watch_ids,
            per_process,
            only_changed,
            interval,
            since,
        } = request::subscription(request.into_inner(), limits, generation, || {
            self.hub.oldest()
        })?;
        // Of the past, watches may be asked for that are no more.
        let held = watch_ids.clone();
        let holds = self.commands.hold(held, owner, since.is_some()).await?;
        let wanted = Wanted {
            filter: Filter {
                watch_ids: watch_ids.into_iter().collect(),
                per_process,
                only_changed,
            },
            interval,
            since,
            group: connection.id(),
        };
        let subscription = self
            .hub
            .subscribe(wanted)
            .map_err(|refused| status::not_subscribed(&refused, generation))?;
        let stream = SampleStream::new(subscription, holds, connection.open());
        Ok(Response::new(stream))
    }

    async fn get_collector_info(
        &self,
        _: Request<v1::GetCollectorInfoRequest>,
    ) -> Result<Response<v1::GetCollectorInfoResponse>, Status> {
        let vitals = self.commands.vitals().await?;
        let info = v1::CollectorInfo {
            hook_mode: vitals.hooks.hook_mode.into(),
            programs: vitals.hooks.programs.clone(),
            blind_spots: vitals.hooks.blind_spots.clone(),
            received_calls_meaning: vitals.hooks.received_calls_meaning.clone(),
            attempts: vitals.hooks.attempts.clone(),
            probe_state: vitals.probe_state.into(),
            durable: vitals.hooks.is_durable(),
            not_durable_cause: vitals.hooks.not_durable.clone(),
            missed_events: Some(vitals.figures.missed_events),
            map_full: Some(vitals.figures.map_full),
            missed_ticks: vitals.missed_ticks,
            subscribers: self.hub.subscribers(),
            watches: vitals.watches,
            processes: vitals.processes,
            own_cost: Some(self.own_cost(&vitals)),
            ..self.about.clone()
        };
        Ok(Response::new(v1::GetCollectorInfoResponse {
            info: Some(info),
        }))
    }
}

impl Service {
    async fn make(&self, request: v1::WatchRequest, owner: String) -> Result<v1::Watch, Status> {
        let request::Watch {
            target,
            selector,
            wait,
            lease_ttl,
        } = request::watch(request, &self.limits)?;
        let wish = Wish {
            target,
            selector,
            owner,
            wait,
            lease_ttl,
        };
        Ok(self.enrolment.make(wish).await?)
    }

    async fn end(
        &self,
        request: v1::UnwatchRequest,
        caller: &Caller,
    ) -> Result<Vec<String>, Status> {
        let selection = request::unwatch(request)?;
        let owner = match &selection {
            // Ids are not given twice, so this is still its owner when it ends.
            Selection::Id(id) if caller.role == Role::Admin => self.owner_of(id).await?,
            _ => None,
        };
        let owner = owner.unwrap_or_else(|| caller.owner.clone());
        Ok(self.commands.unwatch(selection, owner).await?)
    }

    async fn owner_of(&self, watch_id: &str) -> Result<Option<String>, Status> {
        let mut watches = self.commands.list().await?.into_iter();
        let watch = watches.find(|it| it.watch_id == watch_id);
        Ok(watch.map(|it| it.owner))
    }

    fn generation(&self) -> u64 {
        self.about.instance.as_ref().map_or(0, |it| it.generation)
    }

    fn own_cost(&self, vitals: &Vitals) -> v1::OwnCost {
        let (runs, time) = vitals.figures.program_runs.unzip();
        v1::OwnCost {
            program_runs: runs,
            program_time: time.and_then(|time| time.try_into().ok()),
            tick_duration: Some(vitals.tick_duration),
            tick_lateness: Some(vitals.tick_lateness),
            resident_bytes: resident_bytes(),
            ..self.hub.cost()
        }
    }
}

/// 0 if the kernel does not tell.
fn resident_bytes() -> u64 {
    let own = procfs::process::Process::myself().and_then(|it| it.statm());
    own.map_or(0, |statm| {
        statm.resident * rustix::param::page_size() as u64
    })
}

fn owner<T>(request: &Request<T>) -> Result<String, Status> {
    Ok(caller(request)?.owner.clone())
}

/// Whom the gate has let through.
fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    let caller = request.extensions().get();
    caller.ok_or_else(|| Status::internal("the call was not let through"))
}

fn connection<T>(request: &Request<T>) -> Result<OpenStreams, Status> {
    let peer = request.extensions().get::<Peer>();
    let connection = peer.map(|it| it.connection.clone());
    connection.ok_or_else(|| Status::internal("the connection does not tell what it is"))
}

/// A target for the record.
fn in_words(target: Option<&v1::Target>) -> String {
    match target.and_then(|target| target.selector.as_ref()) {
        None => "nothing".to_owned(),
        Some(wire) => match Selector::parse(wire) {
            Ok(selector) => selector.to_string(),
            Err(error) => error.to_string(),
        },
    }
}
