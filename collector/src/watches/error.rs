//! Why a watch was not made, not changed or not ended.
#![forbid(unsafe_code)]

use super::WatchId;
use crate::kernel::AllowError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(
        "there are {limit} watches, which is the collector's limit: end a watch that is not needed, or restart the collector with a larger --max-watches"
    )]
    TooManyWatches { limit: u32 },
    #[error(
        "{owner} has {limit} watches, which is the limit for one owner: end a watch that is not needed, or restart the collector with a larger --max-watches-per-owner"
    )]
    TooManyWatchesOfOwner { owner: String, limit: u32 },
    #[error(
        "there is no room for another process beside those that are counted now or were a moment ago: end a watch that is not needed, or restart the collector with a larger --max-processes (now {limit})"
    )]
    TooManyProcesses { limit: u32 },
    #[error(
        "more than {limit} processes match, which is the limit for one watch: name fewer, or restart the collector with a larger --max-processes-per-watch"
    )]
    TooManyProcessesOfWatch { limit: u32 },
    #[error("process {pid} has just exited, so there is nothing to watch: check the pid")]
    Exited { pid: u32 },
    #[error(
        "children cannot be followed on this kernel: leave follow_children out, or use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    ChildrenNotFollowed,
    #[error(transparent)]
    NotAllowed(#[from] AllowError),
    #[error("there is no watch {watch_id}, or it has ended: ListWatches tells which there are")]
    NotFound { watch_id: String },
    #[error(
        "{owner} has no watch of {selector} to end ({others} of other owners): ListWatches tells which there are, and whose"
    )]
    NoneOfOwn {
        selector: String,
        owner: String,
        others: usize,
    },
    #[error(
        "watch {watch_id} belongs to {owner}, and only its owner can end or renew it: ask them, or let it be (it costs others nothing)"
    )]
    NotTheOwner { watch_id: WatchId, owner: String },
}
