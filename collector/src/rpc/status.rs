//! How each refusal is told over gRPC: a code by its meaning, a message that
//! says what, why and what to do, and a google.rpc.ErrorInfo for programs.
#![forbid(unsafe_code)]

use std::fmt::Display;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    hub::TooManySubscribers, kernel::AllowError, process::FindError, sampler::CommandError,
    watches::WatchError,
};

/// A status with its ErrorInfo.
pub(super) fn status<const N: usize>(
    code: Code,
    reason: &str,
    message: impl Display,
    metadata: [(&str, String); N],
) -> Status {
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let details = ErrorDetails::with_error_info(reason, netio::ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message.to_string(), details)
}

/// What a request, or an open stream, is told when the collector stops.
pub(super) fn shutting_down() -> Status {
    CommandError::ShuttingDown.into()
}

impl From<CommandError> for Status {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refused) => refused.into(),
            CommandError::ShuttingDown => status(Code::Unavailable, "SHUTTING_DOWN", error, []),
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
        }
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        match &error {
            WatchError::TooManyWatches { limit } | WatchError::NoFreeSlot { limit } => {
                let limit = ("limit", limit.to_string());
                status(Code::ResourceExhausted, "TOO_MANY_WATCHES", error, [limit])
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
            WatchError::NoneOfOwn { pid, .. } => {
                let pid = ("pid", pid.to_string());
                status(Code::NotFound, "WATCH_NOT_FOUND", error, [pid])
            }
            WatchError::NotTheOwner { watch_id, owner } => {
                let metadata = [("watch_id", watch_id.to_string()), ("owner", owner.clone())];
                status(Code::PermissionDenied, "NOT_THE_OWNER", error, metadata)
            }
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
    }
}

impl From<TooManySubscribers> for Status {
    fn from(error: TooManySubscribers) -> Self {
        let limit = ("limit", error.max_subscribers.to_string());
        let reason = "TOO_MANY_SUBSCRIBERS";
        status(Code::ResourceExhausted, reason, error, [limit])
    }
}
