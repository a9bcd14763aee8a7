//! What went wrong, in words: takes a cause (often a gRPC status), produces a
//! [`Failure`] that says what failed, why, and what to do next.

use std::{
    env,
    fmt::{self, Write as _},
};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{endpoint::Endpoint, text};

/// The reason of a collector that stops.
const SHUTTING_DOWN: &str = "SHUTTING_DOWN";

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
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    next: String,
    /// The reason that the collector gave, if it spoke.
    reason: Option<String>,
}

impl Failure {
    /// `what` failed and why, and what to do `next`.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: next.into(),
            reason: None,
        }
    }

    /// A call that the collector refused, or that never reached it; `doing`
    /// completes "cannot ...".
    pub(crate) fn of_call(doing: &str, status: &Status, origin: &Origin) -> Self {
        let message = text::message(status.message());
        match reason(status) {
            Some(reason) => Self {
                what: format!("cannot {doing}: {message} ({reason})"),
                next: next_for_reason(&reason, origin),
                reason: Some(reason),
            },
            None => Self::new(
                format!("cannot {doing}: {message}"),
                next_for_code(status.code(), origin),
            ),
        }
    }

    /// A stream of ticks that broke off.
    pub(crate) fn of_stream(status: &Status, origin: &Origin) -> Self {
        match reason(status) {
            Some(_) => Self::of_call("receive samples any longer", status, origin),
            None => Self::new(
                format!(
                    "the connection to the collector {origin} was lost: {}",
                    text::message(status.message())
                ),
                next_for_code(Code::Unavailable, origin),
            ),
        }
    }

    /// A collector that could attach no hooks.
    pub(crate) fn without_probes(origin: &Origin) -> Self {
        Self::new(
            format!("the collector {origin} counts nothing: no hooks could be attached"),
            next_without_probes(origin),
        )
    }

    /// Names watches that may live on, and the command that ends them.
    pub(crate) fn leaving(mut self, watch_ids: &[String], origin: &Origin) -> Self {
        // A collector that stops ends every watch, above all one in this process.
        let is_stopping = self.reason.as_deref() == Some(SHUTTING_DOWN);
        if let Origin::Remote(endpoint) = origin
            && !watch_ids.is_empty()
            && !is_stopping
        {
            let ids = watch_ids.join(" ");
            let _ = write!(
                self.next,
                "\n  watches that may be left behind: {ids}\
                 \n  to end them: netio-client unwatch {ids} --endpoint {}",
                shell_word(&endpoint.to_string())
            );
        }
        self
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

/// The reason that a collector gave, if it was one that spoke.
fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == netio::ERROR_DOMAIN).then(|| text::line(&info.reason))
}

fn next_for_reason(reason: &str, origin: &Origin) -> String {
    match reason {
        "PROCESS_NOT_FOUND" => {
            "give the id of a process that runs, as ps -e or pgrep -a NAME shows it; \
             a thread's id or one of another pid namespace will not do"
        }
        "PID_INVALID" => "give a pid of 1 or more",
        "TOO_MANY_WATCHES" => {
            "end watches that nobody needs (netio-client list, netio-client unwatch WATCH_ID), \
             or start netio-collector with a larger --max-watches"
        }
        "TOO_MANY_SUBSCRIBERS" => "end other clients of this collector first",
        "PROBES_NOT_ATTACHED" => return next_without_probes(origin),
        "PID_BEYOND_ALLOW_LIST" => {
            "restart netio-collector: it sizes its allow-list when it starts"
        }
        "PROCESS_UNREADABLE" | "SOCKETS_UNREADABLE" => {
            "repeat the command; if that does not help, netio-collector doctor, run as the \
             collector's user, tells which privilege is missing"
        }
        SHUTTING_DOWN => "start netio-collector again, then repeat the command",
        "WATCH_NOT_FOUND" => "netio-client list shows the watches that there are",
        "NOT_THE_OWNER" => {
            "a watch can be ended only by who made it: see OWNER in netio-client list"
        }
        _ => "netio-client info tells the collector's version: it may be newer than this client",
    }
    .to_owned()
}

/// A collector without hooks counts nothing. Within this process, privileges
/// are the usual cause, and the remedy can be typed.
fn next_without_probes(origin: &Origin) -> String {
    match origin {
        Origin::InProcess if !rustix::process::geteuid().is_root() => format!(
            "run it as root: sudo {}\n  or let a netio-collector that runs as root count, \
             and name it by --endpoint",
            command_line()
        ),
        Origin::InProcess => "netio-client doctor tells what is missing".to_owned(),
        Origin::Remote(_) => {
            "on the collector's host, netio-collector doctor tells what is missing".to_owned()
        }
    }
}

/// The command as it was typed, near enough to be typed again.
fn command_line() -> String {
    let words: Vec<String> = env::args().map(|word| text::line(&word)).collect();
    words.join(" ")
}

/// As a shell must be given it to be one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-".contains(c);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn next_for_code(code: Code, origin: &Origin) -> String {
    match (code, origin) {
        (Code::Unimplemented, _) => {
            "something answers there that is no netio-collector of this version: check --endpoint"
                .to_owned()
        }
        (Code::PermissionDenied | Code::Unauthenticated, _) => {
            "ask whoever runs the collector to let you in".to_owned()
        }
        (_, Origin::Remote(_)) => {
            "check that netio-collector runs there and is the one you mean, then repeat the command"
                .to_owned()
        }
        (_, Origin::InProcess) => "netio-client doctor tells what is missing".to_owned(),
    }
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

    #[test]
    fn watches_left_behind_are_named_with_a_command_that_ends_them() {
        let ids = ["w-1".to_owned(), "w-2".to_owned()];
        let lost = || Failure::of_stream(&Status::unknown("broken"), &remote());
        let shown = lost().leaving(&ids, &remote()).to_string();
        assert!(
            shown.contains("netio-client unwatch w-1 w-2 --endpoint http://h:1"),
            "{shown}"
        );
        assert_eq!(lost().leaving(&[], &remote()), lost());
        assert_eq!(lost().leaving(&ids, &Origin::InProcess), lost());

        let details = ErrorDetails::with_error_info("SHUTTING_DOWN", "netio", []);
        let status = Status::with_error_details(Code::Unavailable, "stops", details);
        let stops = || Failure::of_stream(&status, &remote());
        assert_eq!(stops().leaving(&ids, &remote()), stops());
    }

    #[test]
    fn a_shell_word_is_quoted_where_it_must_be() {
        assert_eq!(shell_word("unix:///run/a.sock"), "unix:///run/a.sock");
        assert_eq!(shell_word("unix:///a b"), "'unix:///a b'");
        assert_eq!(shell_word("unix:///it's"), r"'unix:///it'\''s'");
        assert_eq!(shell_word("http://[::1]:1"), "'http://[::1]:1'");
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
