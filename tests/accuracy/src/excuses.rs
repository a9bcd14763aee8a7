//! Which patterns a blind spot excuses: the one place that says so.
//!
//! A pattern that no admitted blind spot names here must be counted exactly.
#![forbid(unsafe_code)]

use netio_traffic::Pattern;

/// The patterns that may be miscounted in a mode that lists this blind spot.
/// Blind spots about things that no pattern does excuse none.
pub(crate) fn excused(blind_spot_id: &str) -> &'static [Pattern] {
    match blind_spot_id {
        "ktls" => &[Pattern::Ktls, Pattern::KtlsSplice],
        "ktls-splice" => &[Pattern::KtlsSplice],
        "mptcp" => &[Pattern::Mptcp, Pattern::MptcpFallback],
        "urgent-unread" => &[Pattern::UrgentUnread],
        "zerocopy-receive" => &[Pattern::ZerocopyReceive],
        _ => &[],
    }
}
