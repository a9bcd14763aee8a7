//! What GetCollectorInfo tells that does not change while the collector runs.
#![forbid(unsafe_code)]

use std::{fs, io};

use netio::v1;
use rustix::time::{ClockId, clock_gettime};

use crate::{Limits, Options, kernel::Kernel};

/// Everything but counts that change.
pub(super) fn about(kernel: &dyn Kernel, options: &Options) -> io::Result<v1::CollectorInfo> {
    let hooks = kernel.info().clone();
    let limits = options.limits;
    let durable = hooks.is_durable();
    // Without hooks there is no allow-list, and so no pid that it could hold.
    let max_pid = match hooks.hook_mode {
        v1::HookMode::Unspecified => 0,
        _ => kernel.max_pid(),
    };
    Ok(v1::CollectorInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: Some(instance()?),
        kernel_release: rustix::system::uname().release().to_string_lossy().into(),
        hook_mode: hooks.hook_mode.into(),
        programs: hooks.programs,
        blind_spots: hooks.blind_spots,
        received_calls_meaning: hooks.received_calls_meaning,
        attempts: hooks.attempts,
        limits: Some(v1::Limits {
            max_watches: limits.max_watches,
            max_subscribers: limits.max_subscribers,
            max_watch_ids_per_subscription: limits.max_watch_ids_per_subscription,
            max_pid,
            max_watches_per_owner: limits.max_watches_per_owner,
            max_processes: limits.max_processes,
            max_processes_per_watch: limits.max_processes_per_watch,
            max_lease_ttl: Limits::MAX_LEASE_TTL.try_into().ok(),
            default_lease_ttl: limits.default_lease_ttl.try_into().ok(),
            max_history: limits.max_history.try_into().ok(),
            max_history_bytes: limits.max_history_bytes,
            max_connections: limits.max_connections,
        }),
        // Within the range that was checked before.
        interval: options.interval.try_into().ok(),
        missed_events: None,
        missed_ticks: 0,
        follows_children: hooks.follows_children,
        subscribers: 0,
        map_full: None,
        watches: 0,
        processes: 0,
        own_cost: None,
        probe_state: v1::ProbeState::Unspecified.into(),
        durable,
        not_durable_cause: hooks.not_durable,
        detach_when_idle: options
            .detach_when_idle
            .and_then(|after| after.try_into().ok()),
    })
}

fn instance() -> io::Result<v1::CollectorInstance> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let since_boot = clock_gettime(ClockId::Boottime);
    let nanoseconds =
        i128::from(since_boot.tv_sec) * 1_000_000_000 + i128::from(since_boot.tv_nsec);
    let generation = u64::try_from(nanoseconds).unwrap_or(0);
    Ok(v1::CollectorInstance {
        boot_id: boot_id.trim().to_owned(),
        generation,
        lineage: generation,
    })
}
