//! How each refusal is told over gRPC: a code by its meaning, a message that
//! says what, why and what to do, and a google.rpc.ErrorInfo for programs.
#![forbid(unsafe_code)]

use std::{fmt::Display, time::Duration};

use netio::printable;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    access::{Has, Refusal, Role},
    enrolment::EnrolError,
    hub::SubscribeError,
    kernel::AllowError,
    processes::{FindError, SelectorError},
    sampler::CommandError,
    watches::WatchError,
};

/// A status with its ErrorInfo; the message is one line that can be shown.
pub(super) fn status<const N: usize>(
    code: Code,
    reason: &str,
    message: impl Display,
    metadata: [(&str, String); N],
) -> Status {
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let details = ErrorDetails::with_error_info(reason, netio::ERROR_DOMAIN, metadata);
    let message = message.to_string();
    Status::with_error_details(code, printable::line(&message), details)
}

/// What a request, or an open stream, is told when the collector stops.
pub(super) fn shutting_down() -> Status {
    CommandError::ShuttingDown.into()
}

/// The caller's own deadline has passed.
pub(crate) fn deadline_exceeded() -> Status {
    let message = "the deadline that the caller has set (grpc-timeout) has passed";
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message, [])
}

/// The caller's deadline cannot be read.
pub(crate) fn timeout_invalid() -> Status {
    let message = "grpc-timeout is no time: write up to 8 digits and one of H, M, S, m, u, n";
    status(Code::InvalidArgument, "TIMEOUT_INVALID", message, [])
}

/// No answer could begin in time.
pub(crate) fn request_timeout(allowed: Duration) -> Status {
    let message = format!(
        "the request was not there, or not answered, after {allowed:?}: send all of it at once, \
         and if you did, try again"
    );
    status(Code::DeadlineExceeded, "REQUEST_TIMEOUT", message, [])
}

/// A reader takes nothing.
pub(crate) fn reader_stalled(stall: Duration) -> Status {
    let message = format!(
        "messages waited, and the reader took nothing for {stall:?}: subscribe again, and read \
         on (with since, nothing is missed that the history has)"
    );
    let stall = ("stall_timeout", format!("{stall:?}"));
    status(Code::ResourceExhausted, "READER_STALLED", message, [stall])
}

/// The collector has so many calls open.
pub(crate) fn too_many_calls(limit: usize) -> Status {
    let message = format!("{limit} calls are open already: try again later");
    let limit = ("limit", limit.to_string());
    status(Code::ResourceExhausted, "TOO_MANY_CALLS", message, [limit])
}

/// Answers that nobody takes have so many bytes already.
pub(crate) fn too_many_answers(limit: usize) -> Status {
    let message =
        format!("{limit} bytes of answers wait for callers that do not take them: try again later");
    let limit = ("limit", limit.to_string());
    status(
        Code::ResourceExhausted,
        "TOO_MANY_ANSWERS",
        message,
        [limit],
    )
}

/// The reason that a status gives, or else its code.
pub(crate) fn reason(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        None => format!("{:?}", status.code()),
    }
}

impl From<Refusal> for Status {
    fn from(refused: Refusal) -> Self {
        match &refused {
            Refusal::Unknown => status(Code::Unauthenticated, "CALLER_UNKNOWN", refused, []),
            Refusal::Token => status(Code::Unauthenticated, "TOKEN_INVALID", refused, []),
            Refusal::Role {
                method,
                owner,
                has: Has(has),
                needed,
                ..
            } => {
                let metadata = [
                    ("method", (*method).to_owned()),
                    ("caller", owner.clone()),
                    ("role", has.map_or("none", Role::name).to_owned()),
                    ("needed_role", needed.to_string()),
                ];
                status(Code::PermissionDenied, "ROLE_LACKING", refused, metadata)
            }
            Refusal::Method => status(Code::PermissionDenied, "METHOD_UNKNOWN", refused, []),
        }
    }
}

impl From<CommandError> for Status {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refused) => refused.into(),
            CommandError::ShuttingDown => status(Code::Unavailable, "SHUTTING_DOWN", error, []),
        }
    }
}

impl From<SelectorError> for Status {
    fn from(error: SelectorError) -> Self {
        let (code, reason) = (Code::InvalidArgument, error.reason());
        match &error {
            SelectorError::Pid(pid) => {
                let pid = ("pid", pid.to_string());
                status(code, reason, error, [pid])
            }
            SelectorError::Port(port) => {
                let port = ("port", port.to_string());
                status(code, reason, error, [port])
            }
            SelectorError::Name { .. }
            | SelectorError::Cgroup { .. }
            | SelectorError::Unit { .. }
            | SelectorError::Container { .. } => status(code, reason, error, []),
        }
    }
}

impl From<FindError> for Status {
    fn from(error: FindError) -> Self {
        let not_found = |pid: u32| ("pid", pid.to_string());
        match &error {
            FindError::NotFound(pid) => {
                let pid = not_found(*pid);
                status(Code::NotFound, "PROCESS_NOT_FOUND", error, [pid])
            }
            FindError::Thread { pid, leader } => {
                let metadata = [not_found(*pid), ("process", leader.to_string())];
                status(Code::NotFound, "PROCESS_NOT_FOUND", error, metadata)
            }
            FindError::Unreadable { pid, .. } => {
                let pid = not_found(*pid);
                status(Code::Internal, "PROCESS_UNREADABLE", error, [pid])
            }
            FindError::NoMatch(_) => status(Code::NotFound, "PROCESS_NOT_FOUND", error, []),
            FindError::Ambiguous { container, .. } => {
                let container = ("container", container.clone());
                let reason = "CONTAINER_AMBIGUOUS";
                status(Code::InvalidArgument, reason, error, [container])
            }
            FindError::ProcUnreadable { .. } => {
                status(Code::Internal, "PROCESS_UNREADABLE", error, [])
            }
        }
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        match &error {
            WatchError::TooManyWatches { limit } => too_many("TOO_MANY_WATCHES", *limit, error),
            WatchError::TooManyWatchesOfOwner { limit, .. } => {
                too_many("TOO_MANY_WATCHES_OF_OWNER", *limit, error)
            }
            WatchError::TooManyProcesses { limit } => too_many("TOO_MANY_PROCESSES", *limit, error),
            WatchError::TooManyProcessesOfWatch { limit } => {
                too_many("TOO_MANY_PROCESSES_OF_WATCH", *limit, error)
            }
            WatchError::ChildrenNotFollowed => {
                status(Code::FailedPrecondition, "CHILDREN_NOT_FOLLOWED", error, [])
            }
            WatchError::Exited { pid } => {
                let pid = ("pid", pid.to_string());
                status(Code::NotFound, "PROCESS_NOT_FOUND", error, [pid])
            }
            WatchError::NotAllowed(refused) => not_allowed(refused),
            WatchError::NotFound { watch_id } => {
                let id = ("watch_id", watch_id.clone());
                status(Code::NotFound, "WATCH_NOT_FOUND", error, [id])
            }
            WatchError::NoneOfOwn { selector, .. } => {
                let selector = ("selector", selector.clone());
                status(Code::NotFound, "WATCH_NOT_FOUND", error, [selector])
            }
            WatchError::NotTheOwner { watch_id, owner } => {
                let metadata = [("watch_id", watch_id.to_string()), ("owner", owner.clone())];
                status(Code::PermissionDenied, "NOT_THE_OWNER", error, metadata)
            }
        }
    }
}

fn too_many(reason: &str, limit: u32, error: impl Display) -> Status {
    let limit = ("limit", limit.to_string());
    status(Code::ResourceExhausted, reason, error, [limit])
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Find(error) => error.into(),
            EnrolError::Command(error) => error.into(),
        }
    }
}

fn not_allowed(error: &AllowError) -> Status {
    match error {
        AllowError::PidBeyondAllowList { pid, max_pid } => {
            let metadata = [("pid", pid.to_string()), ("max_pid", max_pid.to_string())];
            let reason = "PID_BEYOND_ALLOW_LIST";
            status(Code::FailedPrecondition, reason, error, metadata)
        }
        AllowError::NotAttached(_) => {
            status(Code::FailedPrecondition, "PROBES_NOT_ATTACHED", error, [])
        }
        AllowError::Sockets { pid, .. } => {
            let pid = ("pid", pid.to_string());
            status(Code::Internal, "SOCKETS_UNREADABLE", error, [pid])
        }
        AllowError::Listed(pid) => {
            let pid = ("pid", pid.to_string());
            status(Code::Unavailable, "PROCESS_BUSY", error, [pid])
        }
    }
}

/// `generation`: of this collector, for those who resume.
pub(crate) fn not_subscribed(error: &SubscribeError, generation: u64) -> Status {
    match error {
        SubscribeError::TooManySubscribers { max_subscribers } => {
            too_many("TOO_MANY_SUBSCRIBERS", *max_subscribers, error)
        }
        SubscribeError::TooManyIntervals => {
            status(Code::ResourceExhausted, "TOO_MANY_INTERVALS", error, [])
        }
        SubscribeError::Interval { .. } => {
            status(Code::InvalidArgument, "INTERVAL_INVALID", error, [])
        }
        SubscribeError::Future { .. } => status(Code::InvalidArgument, "SINCE_INVALID", error, []),
        SubscribeError::Gone { oldest, .. } => gone(error, generation, *oldest),
    }
}

/// The point that a stream was to begin at is not there any more.
pub(super) fn gone(message: impl Display, generation: u64, oldest: u64) -> Status {
    let metadata = [
        ("generation", generation.to_string()),
        ("oldest_sequence", oldest.to_string()),
    ];
    status(Code::OutOfRange, "HISTORY_GONE", message, metadata)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io};

    use netio::v1::target::Selector as Wire;

    use super::*;
    use crate::processes::Selector;

    fn assert_status(status: Status, code: Code, reason: &str, metadata: &[(&str, &str)]) {
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (code, reason));
        let expected: HashMap<_, _> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(info.metadata, expected);
    }

    #[test]
    fn bad_selectors_are_told_by_their_reasons() {
        let refused = |selector, reason, metadata| {
            let error = Selector::parse(&selector).unwrap_err();
            assert_status(error.into(), Code::InvalidArgument, reason, metadata);
        };
        refused(Wire::Pid(0), "PID_INVALID", &[("pid", "0")]);
        refused(Wire::Port(0), "PORT_INVALID", &[("port", "0")]);
        refused(Wire::Name(String::new()), "NAME_INVALID", &[]);
        refused(Wire::Cgroup("/".into()), "CGROUP_INVALID", &[]);
        refused(Wire::Unit("db".into()), "UNIT_INVALID", &[]);
        refused(Wire::Container("db".into()), "CONTAINER_INVALID", &[]);
    }

    #[test]
    fn what_a_rule_finds_or_not_is_told() {
        let none = FindError::NoMatch(Selector::Name("x".repeat(4095)));
        let status = Status::from(none);
        assert!(status.message().contains("wait"), "{status}");
        assert!(status.message().len() < 300, "{status}");
        assert_status(status, Code::NotFound, "PROCESS_NOT_FOUND", &[]);

        let ambiguous = FindError::Ambiguous {
            container: "0123456789ab".into(),
            ids: vec!["0".repeat(64); 100],
        };
        let status = Status::from(ambiguous);
        assert!(status.message().len() < 500, "{status}");
        let metadata = [("container", "0123456789ab")];
        let reason = "CONTAINER_AMBIGUOUS";
        assert_status(status, Code::InvalidArgument, reason, &metadata);

        let unreadable = FindError::ProcUnreadable {
            root: "/proc".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let reason = "PROCESS_UNREADABLE";
        assert_status(unreadable.into(), Code::Internal, reason, &[]);
    }
}
