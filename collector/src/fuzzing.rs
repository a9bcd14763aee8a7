//! Entries for fuzzing: each takes any bytes, hands them to the very code that reads
//! such input from outside, and panics if that breaks a promise. Coverage-guided
//! runs (`cargo xtask fuzz`) and the plain tests, which [`replay`] the kept inputs
//! and mutations of them, share these.
#![forbid(unsafe_code)]

use std::{path::Path, time::Duration};

use netio::{printable, v1};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    Limits, Options,
    btf::Btf,
    config::{Given, Origin, Settings},
    hub::{Filter, Hub, HubOptions, Wanted},
    processes,
    rpc::{request, status},
};

mod mutation;

pub use mutation::replay;

/// A request: which one by the first byte, then the message. It becomes a wish, or
/// is refused by a status with a reason.
pub fn request(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    let limits = Limits::default();
    let refused = match kind % 4 {
        0 => decoded(message).and_then(|it| request::watch(it, &limits).err()),
        1 => decoded(message).and_then(|it| request::unwatch(it).err()),
        2 => decoded(message).and_then(|it| request::renewal(it, &limits).err()),
        _ => decoded(message).and_then(|it| subscribe(it, &limits).err()),
    };
    if let Some(status) = refused {
        assert_told(&status);
    }
}

fn decoded<M: Message + Default>(message: &[u8]) -> Option<M> {
    M::decode(message).ok()
}

fn subscribe(message: v1::SubscribeRequest, limits: &Limits) -> Result<(), Status> {
    /// Small, so that a mutation can meet it.
    const GENERATION: u64 = 1;
    let wish = request::subscription(message, limits, GENERATION, || 1)?;
    let hub = Hub::new(HubOptions {
        last_sequence: 0,
        max_subscribers: 1,
        interval: Duration::from_secs(1),
        max_history: limits.max_history,
        max_history_bytes: limits.max_history_bytes,
    });
    let wanted = Wanted {
        filter: Filter {
            watch_ids: wish.watch_ids.into_iter().collect(),
            per_process: wish.per_process,
            only_changed: wish.only_changed,
        },
        interval: wish.interval,
        since: wish.since,
        group: 0,
    };
    let subscribed = hub.subscribe(wanted);
    let refused = subscribed.map_err(|refused| status::not_subscribed(&refused, GENERATION));
    refused.map(drop)
}

/// A refusal travels in headers and is read by people and by programs.
fn assert_told(status: &Status) {
    let codes = [Code::InvalidArgument, Code::OutOfRange];
    assert!(codes.contains(&status.code()), "{status:?}");
    let info = status.get_details_error_info();
    assert!(
        info.is_some_and(|it| it.domain == netio::ERROR_DOMAIN && !it.reason.is_empty()),
        "{status:?}"
    );
    let message = status.message();
    assert!(
        message.len() < 1024 && message.chars().all(printable::may_be_shown),
        "{message:?}"
    );
}

/// A configuration file. It becomes settings within their limits, or an error.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("fuzzed.toml");
    let settings = Given::from_toml(path, text).and_then(|mut given| {
        // Hosts would be looked up.
        given.listen.retain(|address| !address.starts_with("tcp:"));
        Settings::validate(&[(Origin::File(path), given)])
    });
    match settings {
        Ok(Settings {
            listen, options, ..
        }) => {
            assert!(!listen.is_empty());
            let intervals = Options::MIN_INTERVAL..=Options::MAX_INTERVAL;
            assert!(intervals.contains(&options.interval), "{options:?}");
            let limits = options.limits;
            let leases = Limits::MIN_LEASE_TTL..=Limits::MAX_LEASE_TTL;
            assert!(leases.contains(&limits.default_lease_ttl), "{limits:?}");
            let processes = 1..=Limits::MAX_PROCESSES;
            assert!(processes.contains(&limits.max_processes), "{limits:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A selector in the first line, and what the kernel tells of cgroups and mounts in
/// those that follow.
pub fn selector(data: &[u8]) {
    processes::fuzz_selector(&String::from_utf8_lossy(data));
}

/// The kernel's BTF. It becomes offsets, or an error, soon and in little memory.
pub fn btf(data: &[u8]) {
    let Ok(btf) = Btf::parse(data) else { return };
    for (structure, field) in [
        ("outer", "a"),
        ("outer", "b"),
        ("outer", "c.a"),
        ("inner_t", "a"),
        ("sock", "sk.x"),
        ("", ""),
    ] {
        let _ = btf.offset_of(structure, field);
    }
    let _ = (btf.parameters("f"), btf.has_function("f"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(name: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        replay(&corpus.join(name), target).unwrap();
    }

    #[test]
    fn fuzz_request() {
        replayed("request", request);
    }

    #[test]
    fn fuzz_config() {
        replayed("config", config);
    }

    #[test]
    fn fuzz_selector() {
        replayed("selector", selector);
    }

    #[test]
    fn fuzz_btf() {
        replayed("btf", btf);
    }
}
