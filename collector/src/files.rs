//! The limit of open files.
//!
//! Every connection takes a descriptor, and without BTF every watched process does.
//! The usual limit of 1,024 would be reached before the collector's own limits are,
//! and then nobody could connect any more: so it is raised at the start, and if it
//! cannot be raised far enough, that is said.
#![forbid(unsafe_code)]

use netio_collector::{Limits, MAX_HANDSHAKES, config::Address};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Sockets, maps, programs, and what is read of /proc at a time.
const OTHERS: u64 = 512;

/// What may be open at a time.
pub(crate) fn needed(limits: &Limits, listen: &[Address]) -> u64 {
    let is_unix = |it: &&Address| matches!(it, Address::Unix(_));
    let is_tcp = |it: &&Address| matches!(it, Address::Tcp(_));
    let is_tls = |it: &&Address| matches!(it, Address::Tls(_));
    let there = |is: &dyn Fn(&&Address) -> bool| u64::from(listen.iter().any(|it| is(&it)));
    let kinds = there(&is_unix) + there(&is_tcp) + there(&is_tls);
    let handshakes = listen.iter().filter(is_tls).count() * MAX_HANDSHAKES;
    kinds * u64::from(limits.max_connections)
        + handshakes as u64
        + u64::from(limits.max_processes)
        + OTHERS
}

/// Raises the soft limit to the hard one, and both to what is needed where that is
/// more and the process may do so.
pub(crate) fn allow(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    // None: there is no limit.
    let suffices = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    let both = Rlimit {
        current: Some(needed),
        maximum: Some(needed),
    };
    if !suffices(limit.maximum) && setrlimit(Resource::Nofile, both).is_ok() {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
    }
    let allowed = getrlimit(Resource::Nofile).current;
    if let Some(allowed) = allowed.filter(|_| !suffices(allowed)) {
        warn!(
            "{allowed} files may be open, and max_connections and max_processes together may \
             need {needed}: past that, connections and watches fail; raise the hard limit \
             (LimitNOFILE= of the unit, ulimit -Hn) or lower the settings"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_listener_needs_its_own() {
        let limits = Limits {
            max_connections: 1_000,
            max_processes: 10,
            ..Limits::default()
        };
        let unix = Address::Unix("/a".into());
        let tcp = Address::Tcp("127.0.0.1:1".parse().unwrap());
        let none = needed(&limits, &[]);
        assert_eq!(needed(&limits, std::slice::from_ref(&unix)), none + 1_000);
        let tls = Address::Tls("127.0.0.1:1".parse().unwrap());
        assert_eq!(needed(&limits, &[tls.clone(), tls]), none + 1_000 + 512);
        assert_eq!(needed(&limits, &[unix.clone(), unix, tcp]), none + 2_000);
    }
}
