//! What went wrong, in words: takes a cause (often a gRPC status), produces a
//! [`Failure`] that says what failed, why, and what to do next.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use netio::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{endpoint::Endpoint, model::Point, target, text};

mod next;

pub(crate) use next::for_tls;

/// Where the collector is that was spoken to.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A service.
    Remote(Endpoint),
    /// Within this process.
    InProcess,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(endpoint) => write!(f, "at {endpoint}"),
            Self::InProcess => f.write_str("within this process"),
        }
    }
}

/// Why a command could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    next: String,
    /// The reason that the collector gave, if it spoke.
    reason: Option<String>,
    /// Whether nobody answered or the collector stops, so that it may pass.
    is_lost: bool,
    /// The oldest tick in the history, where it was asked for one that is gone.
    oldest: Option<Point>,
}

impl Failure {
    /// `what` failed and why, and what to do `next`.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: next.into(),
            reason: None,
            is_lost: false,
            oldest: None,
        }
    }

    /// A call that the collector refused, or that never reached it; `doing`
    /// completes "cannot ...".
    pub(crate) fn of_call(doing: &str, status: &Status, origin: &Origin) -> Self {
        let message = text::long_line(status.message());
        match reason(status) {
            Some(reason) => Self {
                what: format!("cannot {doing}: {message} ({reason})"),
                next: next::for_reason(&reason, origin),
                is_lost: [next::SHUTTING_DOWN, next::READER_STALLED].contains(&&*reason),
                oldest: oldest(status, &reason),
                reason: Some(reason),
            },
            None => match of_tls(status) {
                Some((why, next)) => Self::new(format!("cannot {doing}: {why}"), next),
                None => Self {
                    is_lost: is_lost(status),
                    ..Self::new(
                        format!("cannot {doing}: {message}"),
                        next::for_code(status.code(), origin),
                    )
                },
            },
        }
    }

    /// A watch that the collector refused.
    pub(crate) fn of_watch(target: &v1::Target, status: &Status, origin: &Origin) -> Self {
        let doing = format!("watch {}", target::describe(target));
        let mut failure = Self::of_call(&doing, status, origin);
        if failure.has_reason(next::PROCESS_NOT_FOUND) && target::is_rule(target) {
            next::FOR_NO_MATCH.clone_into(&mut failure.next);
        }
        failure
    }

    /// A stream of ticks that broke off.
    pub(crate) fn of_stream(status: &Status, origin: &Origin) -> Self {
        match reason(status) {
            Some(_) => Self::of_call("receive samples any longer", status, origin),
            None => Self {
                is_lost: is_lost(status),
                ..Self::new(
                    format!(
                        "the connection to the collector {origin} was lost: {}",
                        text::long_line(status.message())
                    ),
                    next::for_code(Code::Unavailable, origin),
                )
            },
        }
    }

    /// A stream of ticks that ended without a word.
    pub(crate) fn of_end(origin: &Origin) -> Self {
        Self {
            is_lost: true,
            ..Self::new(
                format!("the collector {origin} ended the stream"),
                "repeat the command",
            )
        }
    }

    /// Another run of the collector answers than the one that was spoken to.
    pub(crate) fn of_restart(origin: &Origin) -> Self {
        Self {
            is_lost: true,
            ..Self::new(
                format!("the collector {origin} was restarted"),
                "repeat the command",
            )
        }
    }

    /// Whether it may pass by itself: nobody answered, or the collector stops.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether nothing matched what was to be watched.
    pub(crate) fn is_no_match(&self) -> bool {
        self.has_reason(next::PROCESS_NOT_FOUND)
    }

    /// The oldest tick in the history, where it was asked for one that is gone.
    pub(crate) fn oldest(&self) -> Option<Point> {
        self.oldest
    }

    /// What failed and why, without what to do.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The same after it did not pass for so long.
    pub(crate) fn in_vain(mut self, limit: Duration) -> Self {
        let limit = humantime::format_duration(limit);
        let _ = write!(self.what, "; trying again for {limit} was in vain");
        self
    }

    /// A collector that could attach no hooks.
    pub(crate) fn without_probes(origin: &Origin) -> Self {
        Self::new(
            format!("the collector {origin} counts nothing: no hooks could be attached"),
            next::without_probes(origin),
        )
    }

    /// Names watches that may live on, though not for longer than their lease.
    pub(crate) fn leaving(mut self, watch_ids: &[String], ttl: Duration, origin: &Origin) -> Self {
        if self.may_leave(watch_ids, origin) {
            let ids = watch_ids.join(" ");
            let _ = write!(
                self.next,
                "\n  watches that may be left behind end by themselves within {} s: {ids}",
                ttl.as_secs_f64().ceil()
            );
        }
        self
    }

    /// Names standing watches that may live on, and the command that ends them.
    pub(crate) fn leaving_standing(mut self, watch_ids: &[String], origin: &Origin) -> Self {
        if let Origin::Remote(endpoint) = origin
            && self.may_leave(watch_ids, origin)
        {
            let ids = watch_ids.join(" ");
            let _ = write!(
                self.next,
                "\n  watches that may be left behind: {ids}\
                 \n  to end them: netio-client unwatch {ids} {}",
                endpoint.options()
            );
        }
        self
    }

    /// A collector that stops ends every watch, above all one in this process.
    fn may_leave(&self, watch_ids: &[String], origin: &Origin) -> bool {
        !watch_ids.is_empty()
            && matches!(origin, Origin::Remote(_))
            && !self.has_reason(next::SHUTTING_DOWN)
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }

    /// An answer that breaks the API's promises.
    pub(crate) fn of_answer(broken: &str, origin: &Origin) -> Self {
        Self::new(
            format!("the collector {origin} sent an answer that makes no sense: {broken}"),
            "compare the versions: netio-client --version, netio-client info",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  what to do: {}", self.what, self.next)
    }
}

/// Whether the way to the collector is what failed: an error that arose on this
/// side of it, or the word of something in between.
fn is_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown
        )
}

fn oldest(status: &Status, reason: &str) -> Option<Point> {
    let info = status.get_details_error_info()?;
    let number = |key| info.metadata.get(key)?.parse().ok();
    (reason == next::HISTORY_GONE).then_some(Point {
        generation: number("generation")?,
        sequence: number("oldest_sequence")?,
    })
}

/// What TLS says in the causes of a status, and what to do.
fn of_tls(status: &Status) -> Option<(String, &'static str)> {
    let first = std::error::Error::source(status);
    let causes = std::iter::successors(first, |cause| cause.source());
    let words = causes.map(|cause| cause.to_string());
    let known = |why: String| Some((text::long_line(&why), next::for_tls(&why)?));
    words.filter_map(known).last()
}

/// The reason that a collector gave, if it was one that spoke.
fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == netio::ERROR_DOMAIN).then(|| text::line(&info.reason))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn remote() -> Origin {
        Origin::Remote("http://h:1".parse().unwrap())
    }

    fn refused(domain: &str) -> Status {
        let details = ErrorDetails::with_error_info("PROCESS_NOT_FOUND", domain, []);
        Status::with_error_details(Code::NotFound, "no process has pid 7", details)
    }

    #[test]
    fn a_refusal_tells_message_reason_and_remedy() {
        let shown = Failure::of_call("watch pid 7", &refused("netio"), &remote()).to_string();
        assert!(
            shown.starts_with("cannot watch pid 7: no process has pid 7 (PROCESS_NOT_FOUND)\n"),
            "{shown}"
        );
        assert!(shown.contains("pgrep"), "{shown}");
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let shown = Failure::of_call("watch pid 7", &refused("proxy"), &remote()).to_string();
        assert!(!shown.contains("PROCESS_NOT_FOUND"), "{shown}");
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        assert!(lost().is_lost() && stops().is_lost());
        assert!(Failure::of_end(&remote()).is_lost());
        let call = |status: Status| Failure::of_call("list watches", &status, &remote());
        assert!(call(Status::unavailable("nobody")).is_lost());
        assert!(!call(refused("netio")).is_lost());
        assert!(!call(Status::unimplemented("what?")).is_lost());
        // Such as a message that is too large, which the next one is as well.
        let too_large = Status::out_of_range("too large");
        assert!(!Failure::of_stream(&too_large, &remote()).is_lost());
    }

    #[test]
    fn the_oldest_tick_is_told_where_the_history_does_not_reach() {
        let refused = |reason: &str| {
            let oldest = [("generation", "7"), ("oldest_sequence", "300")];
            let metadata = oldest.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let details = ErrorDetails::with_error_info(reason, "netio", metadata);
            let status = Status::with_error_details(Code::OutOfRange, "gone", details);
            Failure::of_call("subscribe", &status, &remote()).oldest()
        };
        let oldest = Point {
            generation: 7,
            sequence: 300,
        };
        assert_eq!(refused("HISTORY_GONE"), Some(oldest));
        assert_eq!(refused("SINCE_INVALID"), None);
    }

    #[test]
    fn a_broken_stream_names_the_collector() {
        let shown = Failure::of_stream(&Status::unknown("h2: broken"), &remote()).to_string();
        assert!(shown.contains("http://h:1 was lost: h2: broken"), "{shown}");
    }

    #[test]
    fn missing_probes_have_a_remedy_on_either_side() {
        let details = ErrorDetails::with_error_info("PROBES_NOT_ATTACHED", "netio", []);
        let status = Status::with_error_details(Code::FailedPrecondition, "EPERM", details);
        let here = Failure::of_call("watch pid 7", &status, &Origin::InProcess).to_string();
        let root = rustix::process::geteuid().is_root();
        assert_eq!(here.contains("sudo "), !root, "{here}");
        let there = Failure::of_call("watch pid 7", &status, &remote()).to_string();
        assert!(there.contains("netio-collector doctor"), "{there}");
    }

    const TTL: Duration = Duration::from_secs(10);

    fn lost() -> Failure {
        Failure::of_stream(&Status::unknown("broken"), &remote())
    }

    fn stops() -> Failure {
        let details = ErrorDetails::with_error_info("SHUTTING_DOWN", "netio", []);
        let status = Status::with_error_details(Code::Unavailable, "stops", details);
        Failure::of_stream(&status, &remote())
    }

    #[test]
    fn watches_left_behind_are_named_and_when_they_end() {
        let ids = ["w-1".to_owned(), "w-2".to_owned()];
        let shown = lost().leaving(&ids, TTL, &remote()).to_string();
        assert!(
            shown.contains("end by themselves within 10 s: w-1 w-2"),
            "{shown}"
        );
        assert_eq!(lost().leaving(&[], TTL, &remote()), lost());
        assert_eq!(lost().leaving(&ids, TTL, &Origin::InProcess), lost());
        assert_eq!(stops().leaving(&ids, TTL, &remote()), stops());
    }

    #[test]
    fn standing_watches_left_behind_are_named_with_a_command_that_ends_them() {
        let ids = ["w-1".to_owned(), "w-2".to_owned()];
        let shown = lost().leaving_standing(&ids, &remote()).to_string();
        assert!(
            shown.contains("netio-client unwatch w-1 w-2 --endpoint http://h:1"),
            "{shown}"
        );
        assert_eq!(lost().leaving_standing(&[], &remote()), lost());
        assert_eq!(stops().leaving_standing(&ids, &remote()), stops());
    }

    #[test]
    fn where_no_process_matches_a_rule_may_wait_and_a_pid_not() {
        let of_rule = Failure::of_watch(&v1::Target::port(3306), &refused("netio"), &remote());
        let shown = of_rule.to_string();
        assert!(shown.starts_with("cannot watch port 3306: "), "{shown}");
        assert!(shown.contains("--wait"), "{shown}");
        let of_pid = Failure::of_watch(&v1::Target::pid(7), &refused("netio"), &remote());
        let shown = of_pid.to_string();
        assert!(
            !shown.contains("--wait") && shown.contains("pgrep"),
            "{shown}"
        );
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let status = Status::unknown("\u{1b}]0;owned\u{7}");
        let shown = Failure::of_call("list watches", &status, &remote()).to_string();
        assert!(
            !shown.contains('\u{1b}') && !shown.contains('\u{7}'),
            "{shown:?}"
        );
    }
}
