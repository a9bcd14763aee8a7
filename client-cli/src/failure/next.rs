//! What to do next: takes the reason that a collector gave, or else the code of
//! its status, produces words that can be followed, as commands where possible.

use std::env;

use tonic::Code;

use super::Origin;
use crate::text;

/// The reason of a collector that stops.
pub(super) const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The reason where this client took nothing for too long.
pub(super) const READER_STALLED: &str = "READER_STALLED";
/// The reason where a tick is asked for that the collector does not have any more.
pub(super) const HISTORY_GONE: &str = "HISTORY_GONE";
/// The reason where nothing matches.
pub(super) const PROCESS_NOT_FOUND: &str = "PROCESS_NOT_FOUND";

/// For a rule, that nothing matches is no mistake: the server may start later.
pub(super) const FOR_NO_MATCH: &str = "start it first, or add --wait to count it from when it \
     starts; netio-client discover shows the database servers that run";

/// What to do about a reason of the API.
pub(super) fn for_reason(reason: &str, origin: &Origin) -> String {
    match reason {
        PROCESS_NOT_FOUND => {
            "give the id of a process that runs, as ps -e or pgrep -a NAME shows it; \
             a thread's id or one of another pid namespace will not do"
        }
        "PID_INVALID" => "give a pid of 1 or more",
        "NAME_INVALID" => {
            "give a name as ps -e shows it, the file name of a program, or its whole path, \
             such as /usr/sbin/mariadbd; not empty, and at most 4,095 bytes"
        }
        "PORT_INVALID" => "give a TCP port from 1 to 65535",
        "CGROUP_INVALID" => {
            "give a cgroup's path from the root of the hierarchy, such as /system.slice, or its \
             folder below /sys/fs/cgroup; systemd-cgls shows them"
        }
        "UNIT_INVALID" => {
            "give a systemd unit with its suffix, such as mariadb.service; \
             systemctl list-units shows them"
        }
        "CONTAINER_INVALID" => {
            "give a container's id, or its first 12 hexadecimal digits or more, as docker ps or \
             podman ps shows it; its name will not do"
        }
        "CONTAINER_AMBIGUOUS" => {
            "give more digits of the container's id; docker ps --no-trunc shows all 64"
        }
        "LEASE_INVALID" => {
            "netio-client info shows the longest lease that the collector gives: let it be longer \
             there (netio-collector --help), or make a standing watch with --detach"
        }
        "WAIT_INVALID" => {
            "leave out --wait, or name the process by what it will have when it starts: \
             --name, --port, --cgroup, --unit or --container"
        }
        "TOO_MANY_WATCHES" => {
            "end watches that nobody needs (netio-client list, netio-client unwatch WATCH_ID), \
             or start netio-collector with a larger --max-watches"
        }
        "TOO_MANY_WATCHES_OF_OWNER" => {
            "end watches of your own that you do not need (OWNER in netio-client list, \
             netio-client unwatch WATCH_ID); netio-client info shows the limit"
        }
        "TOO_MANY_PROCESSES" => {
            "end watches that nobody needs (netio-client list shows how many processes each has), \
             or name fewer processes; netio-client info shows the limit"
        }
        "TOO_MANY_PROCESSES_OF_WATCH" => {
            "name fewer processes in one watch, such as a unit within the cgroup; \
             netio-client info shows the limit"
        }
        "TOO_MANY_WATCH_IDS" => "name fewer watches at once; netio-client info shows the limit",
        "TOO_MANY_SUBSCRIBERS" => "end other clients of this collector first",
        "TOO_MANY_INTERVALS" => "choose an interval that others use, or leave --every out",
        "CHILDREN_NOT_FOLLOWED" => {
            "add --no-follow-children to count only the processes that match by themselves; \
             netio-client info shows the hooks in use and why others do not work"
        }
        "PROBES_NOT_ATTACHED" => return without_probes(origin),
        "PID_BEYOND_ALLOW_LIST" => {
            "restart netio-collector: it sizes its allow-list when it starts"
        }
        "PROCESS_UNREADABLE" | "SOCKETS_UNREADABLE" => {
            "repeat the command; if that does not help, netio-collector doctor, run as the \
             collector's user, tells which privilege is missing"
        }
        "INTERVAL_INVALID" => {
            "give an --every that is a whole multiple of the collector's interval, as \
             netio-client info shows it, and at most 1h; if other clients use many different \
             ones, take one of theirs, or leave it out"
        }
        "SINCE_INVALID" => {
            "give --since a duration, such as 5m, or a time, such as 2026-03-01T12:00:00Z, \
             and no --every beside it"
        }
        HISTORY_GONE => {
            "repeat the command with a --since that is later; netio-client info shows how far \
             the history goes back"
        }
        "PROCESS_BUSY" | "TOO_MANY_CALLS" | "TOO_MANY_ANSWERS" | "REQUEST_TIMEOUT"
        | "DEADLINE_EXCEEDED" => "repeat the command in a moment",
        READER_STALLED => {
            "repeat the command, and let whatever reads its output go on reading; where readers \
             pause for long, start netio-collector with a longer --stall-timeout"
        }
        SHUTTING_DOWN => "start netio-collector again, then repeat the command",
        "WATCH_NOT_FOUND" => "netio-client list shows the watches that there are",
        "NOT_THE_OWNER" => {
            "a watch can be ended only by who made it: see OWNER in netio-client list"
        }
        "CALLER_UNKNOWN" => {
            "give a certificate and its key (--tls-cert, --tls-key) or a token (--token-file) that \
             the collector's configuration grants a role to"
        }
        "TOKEN_INVALID" => {
            "compare --token-file (NETIO_CLIENT_TOKEN_FILE) with the token_file of the collector's \
             [[grant]]; without it, a Unix socket knows you as your user"
        }
        "ROLE_LACKING" => {
            "ask whoever runs the collector for such a grant, as a [[grant]] in its --config or as \
             --grant"
        }
        "METHOD_UNKNOWN" => {
            "compare the versions: netio-client --version, netio-collector --version"
        }
        _ => "netio-client info tells the collector's version: it may be newer than this client",
    }
    .to_owned()
}

/// A collector without hooks counts nothing. Within this process, privileges
/// are the usual cause, and the remedy can be typed.
pub(super) fn without_probes(origin: &Origin) -> String {
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

/// What to do where TLS has failed, if that is what an error is about: our certificate
/// is refused, or we refuse the collector's.
pub(crate) fn for_tls(why: &str) -> Option<&'static str> {
    let is_refused = why.contains("fatal alert");
    if is_refused
        && ["Certificate", "UnknownCA", "DecryptError"]
            .iter()
            .any(|it| why.contains(it))
    {
        return Some(
            "the collector does not take this client's certificate: give one that its \
             --tls-client-ca has signed and that is still valid, by --tls-cert and --tls-key",
        );
    }
    why.contains("invalid peer certificate").then_some(
        "give the CA of the collector's certificate by --tls-ca, and in --endpoint a name or \
         address that its certificate has (netio-collector certs init --host)",
    )
}

/// What to do about a status without a reason of the API.
pub(super) fn for_code(code: Code, origin: &Origin) -> String {
    match (code, origin) {
        (Code::Unimplemented, _) => {
            "something answers there that is no netio-collector of this version: check --endpoint"
                .to_owned()
        }
        (Code::PermissionDenied | Code::Unauthenticated, _) => {
            "ask whoever runs the collector to let you in".to_owned()
        }
        // Its refusal may not have arrived: the connection ends before or after it is read.
        (_, Origin::Remote(endpoint)) if endpoint.has_tls() => {
            "check that netio-collector runs there, and takes this client's certificate \
             (--tls-cert, --tls-key): where it does not, its log says CERTIFICATE_REFUSED"
                .to_owned()
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
    use std::{fs, path::Path};

    use super::*;

    /// The reasons that the API's comments list, in capitals with an underscore.
    fn reasons() -> Vec<String> {
        let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/netio/v1/netio.proto");
        let proto = fs::read_to_string(proto).unwrap();
        let service = proto
            .split_once("service NetIoService {")
            .and_then(|(_, rest)| rest.split_once("\n}\n"))
            .unwrap()
            .0;
        let is_reason = |word: &&str| {
            let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
            word.contains('_') && word.chars().all(is_part)
        };
        let words = service.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(is_reason).map(str::to_owned).collect()
    }

    #[test]
    fn failures_of_tls_have_a_remedy_on_either_side() {
        let of = |why| for_tls(why).unwrap_or_default();
        assert!(of("received fatal alert: CertificateRequired").contains("--tls-cert"));
        assert!(of("received fatal alert: UnknownCA").contains("--tls-cert"));
        assert!(of("invalid peer certificate: UnknownIssuer").contains("--tls-ca"));
        assert_eq!(for_tls("received fatal alert: InternalError"), None);
        assert_eq!(for_tls("connection reset by peer"), None);
    }

    #[test]
    fn every_reason_of_the_api_has_a_remedy_of_its_own() {
        let origin = Origin::Remote("http://h:1".parse().unwrap());
        let codes = [
            "INVALID_ARGUMENT",
            "NOT_FOUND",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "PERMISSION_DENIED",
            "OUT_OF_RANGE",
            "ENHANCE_YOUR_CALM",
            // What this client never leaves out, or gets wrong.
            "TARGET_MISSING",
            "SELECTOR_MISSING",
            "TIMEOUT_INVALID",
        ];
        let unknown = for_reason("SOMETHING_NEW", &origin);
        let reasons = reasons();
        assert!(reasons.len() > 20, "{reasons:?}");
        for reason in reasons.iter().filter(|it| !codes.contains(&it.as_str())) {
            assert_ne!(for_reason(reason, &origin), unknown, "{reason}");
        }
    }
}
