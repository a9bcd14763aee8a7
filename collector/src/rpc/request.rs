//! Requests, checked: takes what a caller sent, which may be anything that decodes,
//! produces what is wished for, or the status that refuses it. Knows nothing of
//! connections, watches or processes.
#![forbid(unsafe_code)]

use std::time::Duration;

use netio::{
    time,
    v1::{self, subscribe_request, target, unwatch_request, watch_request::Life},
};
use tonic::{Code, Status};

use super::status::{self, status};
use crate::{Limits, hub::Since, processes::Selector, watches::Selection};

/// A watch that a caller wishes for.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) target: v1::Target,
    pub(crate) selector: Selector,
    pub(crate) wait: bool,
    /// None: a standing watch.
    pub(crate) lease_ttl: Option<Duration>,
}

pub(crate) fn watch(request: v1::WatchRequest, limits: &Limits) -> Result<Watch, Status> {
    let v1::WatchRequest { target, wait, life } = request;
    let target = target.unwrap_or_default();
    let selector = selector(target.selector.as_ref())?
        .ok_or_else(|| invalid("TARGET_MISSING", "the request says not what to watch"))?;
    if wait && !selector.is_rule() {
        let message = format!(
            "{selector} cannot be waited for: a pid names a process that is there; \
             leave wait out, or name the process by a rule"
        );
        return Err(invalid("WAIT_INVALID", &message));
    }
    Ok(Watch {
        target,
        selector,
        wait,
        lease_ttl: lease_ttl(life, limits)?,
    })
}

/// How long a watch lives without renewal; none: for ever.
fn lease_ttl(life: Option<Life>, limits: &Limits) -> Result<Option<Duration>, Status> {
    let ttl = match life {
        Some(Life::Standing(true)) => return Ok(None),
        Some(Life::Standing(false)) | None => return Ok(Some(limits.default_lease_ttl)),
        Some(Life::LeaseTtl(ttl)) => ttl,
    };
    let range = Limits::MIN_LEASE_TTL..=Limits::MAX_LEASE_TTL;
    match time::duration(ttl) {
        Some(ttl) if range.contains(&ttl) => Ok(Some(ttl)),
        _ => {
            let message = format!(
                "a lease of {} s and {} ns is out of range: choose from {:?} to {:?}, or a \
                 standing watch",
                ttl.seconds,
                ttl.nanos,
                range.start(),
                range.end()
            );
            Err(invalid("LEASE_INVALID", &message))
        }
    }
}

pub(crate) fn unwatch(request: v1::UnwatchRequest) -> Result<Selection, Status> {
    let selection = match request.selector {
        Some(unwatch_request::Selector::WatchId(id)) => Some(Selection::Id(id)),
        Some(unwatch_request::Selector::Target(target)) => {
            selector(target.selector.as_ref())?.map(Selection::Selector)
        }
        None => None,
    };
    selection.ok_or_else(|| {
        let what = "the request says not which watches to end: set watch_id, or a target";
        invalid("SELECTOR_MISSING", what)
    })
}

pub(crate) fn renewal(
    request: v1::RenewWatchesRequest,
    limits: &Limits,
) -> Result<Vec<String>, Status> {
    check_number(&request.watch_ids, limits)?;
    Ok(request.watch_ids)
}

/// A stream that a caller wishes for.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// None: all.
    pub(crate) watch_ids: Vec<String>,
    pub(crate) per_process: bool,
    pub(crate) only_changed: bool,
    /// The time between messages; none: each tick.
    pub(crate) interval: Option<Duration>,
    pub(crate) since: Option<Since>,
}

/// `generation` is that of this run of the collector, `oldest` the oldest tick that
/// it has.
pub(crate) fn subscription(
    request: v1::SubscribeRequest,
    limits: &Limits,
    generation: u64,
    oldest: impl FnOnce() -> u64,
) -> Result<Subscription, Status> {
    check_number(&request.watch_ids, limits)?;
    let interval = request.interval.map(interval).transpose()?;
    let since = match request.since {
        None => None,
        Some(subscribe_request::Since::Time(at)) => Some(since_time(at)?),
        Some(subscribe_request::Since::After(point)) if point.generation == generation => {
            Some(Since::After(point.sequence))
        }
        Some(subscribe_request::Since::After(_)) => {
            let what = "the collector was restarted since: its ticks begin anew";
            return Err(status::gone(what, generation, oldest()));
        }
    };
    if since.is_some() && interval.is_some() {
        let what = "the history has the collector's own interval: leave interval out";
        return Err(invalid("SINCE_INVALID", what));
    }
    Ok(Subscription {
        watch_ids: request.watch_ids,
        per_process: request.per_process,
        only_changed: request.only_changed,
        interval,
        since,
    })
}

fn interval(interval: prost_types::Duration) -> Result<Duration, Status> {
    time::duration(interval).ok_or_else(|| {
        let what = "the interval is no time that could pass: give seconds of 0 or more, and \
                    nanoseconds from 0 to 999,999,999";
        invalid("INTERVAL_INVALID", what)
    })
}

fn since_time(at: prost_types::Timestamp) -> Result<Since, Status> {
    time::system_time(at).map(Since::Time).ok_or_else(|| {
        let what = "since is no time that there could be: give one of the years 1 to 9999, and \
                    nanoseconds from 0 to 999,999,999";
        invalid("SINCE_INVALID", what)
    })
}

fn check_number(watch_ids: &[String], limits: &Limits) -> Result<(), Status> {
    let limit = limits.max_watch_ids_per_subscription;
    if watch_ids.len() <= limit as usize {
        return Ok(());
    }
    let message = format!(
        "{} watch ids are too many for one call: name at most {limit}",
        watch_ids.len()
    );
    let limit = ("limit", limit.to_string());
    let reason = "TOO_MANY_WATCH_IDS";
    Err(status(Code::InvalidArgument, reason, message, [limit]))
}

fn selector(selector: Option<&target::Selector>) -> Result<Option<Selector>, Status> {
    Ok(selector.map(Selector::parse).transpose()?)
}

fn invalid(reason: &str, message: &str) -> Status {
    status(Code::InvalidArgument, reason, message, [])
}
