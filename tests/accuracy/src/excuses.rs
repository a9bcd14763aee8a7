//! Which errors a blind spot excuses: the one place that says so.
//!
//! A pattern that no admitted blind spot names here must be counted exactly, and
//! one that is named may only be wrong in the way that the blind spot tells.
#![forbid(unsafe_code)]

use netio_traffic::Pattern;

use crate::report::Errors;
use netio_traffic::protocol::Bytes;

/// The blind spot of a mode that cannot follow children; a mode that refuses to
/// watch them has it, too.
pub(crate) const CHILDREN: &str = "children";

/// The way in which a count may be wrong.
enum Shape {
    /// Bytes are missing, up to all of them.
    Missing,
    /// Received bytes are missing, and nothing else is wrong.
    ReceivedMissing,
    /// Bytes are counted that are none.
    More,
    /// One byte too many is received for each urgent byte; such traffic has one
    /// in 500 bytes at most.
    UrgentBytes,
}

/// Whether a mode that lists this blind spot may be wrong by `errors` in this
/// pattern.
pub(crate) fn excuses(blind_spot_id: &str, pattern: Pattern, errors: Errors, truth: Bytes) -> bool {
    let (patterns, shape): (&[Pattern], Shape) = match blind_spot_id {
        CHILDREN => (
            &[
                Pattern::ShortLivedChildren,
                Pattern::ForkingTree,
                Pattern::ChildrenBefore,
            ],
            Shape::Missing,
        ),
        "ktls" => (
            &[Pattern::Ktls, Pattern::KtlsSplice, Pattern::KtlsOneWay],
            Shape::Missing,
        ),
        "ktls-splice" => (&[Pattern::KtlsSplice], Shape::ReceivedMissing),
        "mptcp" => (&[Pattern::Mptcp, Pattern::MptcpFallback], Shape::Missing),
        "splice-in" => (
            &[
                Pattern::SpliceIn,
                Pattern::SpliceQueued,
                Pattern::ZerocopyReceive,
                Pattern::OpenedBefore,
                Pattern::OpenedBeforeCollector,
            ],
            Shape::ReceivedMissing,
        ),
        "raw-tcp" => (&[Pattern::RawTcpAndUdp], Shape::More),
        "reused-pid" => (&[Pattern::ReusedPid], Shape::More),
        "urgent-unread" => (&[Pattern::UrgentUnread], Shape::UrgentBytes),
        "zerocopy-receive" => (&[Pattern::ZerocopyReceive], Shape::ReceivedMissing),
        _ => return false,
    };
    let missing = |error: i64, truth: u64| error <= 0 && error.unsigned_abs() <= truth;
    patterns.contains(&pattern)
        && match shape {
            Shape::Missing => {
                missing(errors.sent, truth.sent) && missing(errors.received, truth.received)
            }
            Shape::ReceivedMissing => errors.sent == 0 && missing(errors.received, truth.received),
            Shape::More => errors.sent >= 0 && errors.received >= 0,
            Shape::UrgentBytes => {
                errors.sent == 0
                    && errors.received >= 0
                    && errors.received.unsigned_abs() <= truth.received / 500
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: Bytes = Bytes {
        sent: 1000,
        received: 1000,
    };

    fn excused(id: &str, pattern: Pattern, sent: i64, received: i64) -> bool {
        excuses(id, pattern, Errors { sent, received }, TRUTH)
    }

    #[test]
    fn only_the_error_that_a_blind_spot_tells_is_excused() {
        assert!(excused("urgent-unread", Pattern::UrgentUnread, 0, 2));
        assert!(!excused("urgent-unread", Pattern::UrgentUnread, 0, 3));
        assert!(!excused("urgent-unread", Pattern::UrgentUnread, 0, -1));
        assert!(!excused("urgent-unread", Pattern::UrgentUnread, 1, 1));
        assert!(!excused("urgent-unread", Pattern::Peek, 0, 1));
        assert!(excused("ktls", Pattern::Ktls, -1000, -7));
        assert!(!excused("ktls", Pattern::Ktls, -1001, 0));
        assert!(excused("ktls-splice", Pattern::KtlsSplice, 0, -1000));
        assert!(!excused("ktls-splice", Pattern::KtlsSplice, 0, 1));
        assert!(!excused("not-tcp", Pattern::Peek, 0, -1));
        assert!(excused("reused-pid", Pattern::ReusedPid, 50, 50));
        assert!(!excused("reused-pid", Pattern::ReusedPid, -1, 0));
        assert!(excused(CHILDREN, Pattern::ForkingTree, -1000, -7));
        assert!(!excused(CHILDREN, Pattern::ForkingTree, 1, 0));
        assert!(!excused(CHILDREN, Pattern::Inherited, -1, 0));
    }
}
