//! What the API tells of watches: samples and descriptions.
#![forbid(unsafe_code)]

use netio::v1;
use tokio::time::Instant;

use super::{Follow, Member, Watch, WatchId, leases::Leases, table::Process, table::Table};
use crate::kernel::Counters;

/// One watch's part of a tick, as it is being summed up.
#[derive(Default)]
struct Sum {
    interval: Counters,
    running: u32,
    exited: u32,
    /// The oldest that runs.
    oldest: Option<(u64, v1::Process)>,
    /// The last that exited.
    last: Option<v1::Process>,
    processes: Vec<v1::ProcessSample>,
    unlisted: Option<v1::ProcessSample>,
}

/// The watch's sample: what its members counted from the reading before to the
/// last one. `detail`: with each process's part.
pub(super) fn take(id: WatchId, watch: &mut Watch, table: &Table, detail: bool) -> v1::NetIoSample {
    let mut sum = Sum::default();
    for member in &mut watch.members {
        if let Some(process) = table.get(member.slot) {
            let interval = member.advance(process.reading);
            sum.add(process, interval);
            if detail {
                let part = part(member, process.exited, interval);
                sum.processes.push(v1::ProcessSample {
                    process: Some(process.about.clone()),
                    ..part
                });
            }
        }
    }
    for member in &mut watch.shared {
        if let Some(family) = table.families.get(&member.slot) {
            let interval = member.advance(family.reading);
            sum.interval += interval;
            sum.running = sum.running.saturating_add(family.sharers);
            watch.unlisted_total += interval;
            watch.had_unlisted |= family.sharers > 0 || interval != Counters::default();
            if detail {
                add_unlisted(&mut sum.unlisted, family.sharers > 0, interval);
            }
        }
    }
    watch.total += sum.interval;
    sum.processes
        .sort_by_key(|part| part.process.as_ref().map(|it| (it.start_time_ns, it.pid)));
    if !watch.had_unlisted {
        sum.unlisted = None;
    } else if detail {
        let unlisted = sum.unlisted.get_or_insert_with(|| v1::ProcessSample {
            state: state(true).into(),
            ..v1::ProcessSample::default()
        });
        let total = watch.unlisted_total;
        unlisted.sent_bytes_total = total.sent_bytes;
        unlisted.received_bytes_total = total.received_bytes;
        unlisted.sent_calls_total = total.sent_calls;
        unlisted.received_calls_total = total.received_calls;
    }
    if let Some(process) = sum.oldest.map(|(_, process)| process).or(sum.last) {
        watch.main = Some(process);
    }
    let state = match (sum.running, watch.selector.is_rule()) {
        (1.., _) => v1::ProcessState::Running,
        (0, true) => v1::ProcessState::Waiting,
        (0, false) => v1::ProcessState::Exited,
    };
    v1::NetIoSample {
        watch_id: id.to_string(),
        process: watch.main.clone(),
        state: state.into(),
        sent_bytes: sum.interval.sent_bytes,
        received_bytes: sum.interval.received_bytes,
        sent_calls: sum.interval.sent_calls,
        received_calls: sum.interval.received_calls,
        sent_bytes_total: watch.total.sent_bytes,
        received_bytes_total: watch.total.received_bytes,
        sent_calls_total: watch.total.sent_calls,
        received_calls_total: watch.total.received_calls,
        process_count: sum.running + sum.exited,
        processes: sum.processes,
        unlisted: sum.unlisted,
    }
}

impl Sum {
    fn add(&mut self, process: &Process, interval: Counters) {
        self.interval += interval;
        if process.exited {
            self.exited += 1;
            self.last = Some(process.about.clone());
            return;
        }
        self.running += 1;
        let start = process.id.start_time_ns;
        if self
            .oldest
            .as_ref()
            .is_none_or(|(oldest, _)| start < *oldest)
        {
            self.oldest = Some((start, process.about.clone()));
        }
    }
}

fn part(member: &Member, exited: bool, interval: Counters) -> v1::ProcessSample {
    let total = member.seen - member.baseline;
    v1::ProcessSample {
        process: None,
        state: state(exited).into(),
        sent_bytes: interval.sent_bytes,
        received_bytes: interval.received_bytes,
        sent_calls: interval.sent_calls,
        received_calls: interval.received_calls,
        sent_bytes_total: total.sent_bytes,
        received_bytes_total: total.received_bytes,
        sent_calls_total: total.sent_calls,
        received_calls_total: total.received_calls,
    }
}

fn add_unlisted(unlisted: &mut Option<v1::ProcessSample>, running: bool, interval: Counters) {
    let sample = unlisted.get_or_insert_with(v1::ProcessSample::default);
    sample.sent_bytes += interval.sent_bytes;
    sample.received_bytes += interval.received_bytes;
    sample.sent_calls += interval.sent_calls;
    sample.received_calls += interval.received_calls;
    if sample.state() != v1::ProcessState::Running {
        sample.state = state(!running).into();
    }
}

fn state(exited: bool) -> v1::ProcessState {
    if exited {
        v1::ProcessState::Exited
    } else {
        v1::ProcessState::Running
    }
}

/// The watch as it is now, with up to `room` processes.
pub(super) fn describe(
    id: WatchId,
    watch: &Watch,
    table: &Table,
    leases: &Leases,
    now: Instant,
    room: usize,
) -> v1::Watch {
    let running = || {
        let members = watch.members.iter();
        members
            .filter_map(|member| table.get(member.slot))
            .filter(|process| !process.exited)
    };
    let mut processes: Vec<_> = running().map(|process| process.about.clone()).collect();
    processes.sort_by_key(|process| (process.start_time_ns, process.pid));
    processes.truncate(room);
    let sharers = watch.shared.iter();
    let sharers = sharers.filter_map(|member| table.families.get(&member.slot));
    let follows = match watch.follow {
        Follow::Always => true,
        Follow::Never => false,
        // Where it applies to some process.
        Follow::IfForksPerConnection => watch
            .shared
            .iter()
            .filter_map(|member| table.families.get(&member.slot))
            .any(|family| !family.following.is_empty()),
    };
    let running = u32::try_from(running().count()).unwrap_or(u32::MAX);
    v1::Watch {
        watch_id: id.to_string(),
        target: Some(watch.target.clone()),
        processes,
        owner: watch.owner.clone(),
        create_time: Some(watch.create_time),
        process_count: sharers.fold(running, |sum, family| sum.saturating_add(family.sharers)),
        follow_children: follows,
        lease: leases.remaining(id, now).map(|left| v1::Lease {
            ttl: left.ttl.try_into().ok(),
            remaining: left.remaining.try_into().ok(),
            held: left.held,
        }),
    }
}
