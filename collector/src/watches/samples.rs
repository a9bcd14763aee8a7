//! What the API tells of watches: samples and descriptions.
#![forbid(unsafe_code)]

use netio::v1;
use tokio::time::Instant;

use super::{
    Follow, Watch, WatchId,
    leases::Leases,
    table::{Pulse, Table},
};
use crate::kernel::{Counters, ProcessId, Slot};

/// The process that a watch's samples name, as of the last tick.
pub(super) struct Main {
    pub(super) process: v1::Process,
    /// Which it is, and how many programs it had executed: only these change what
    /// is told about it.
    pub(super) as_of: (ProcessId, u32),
}

/// One watch's part of a tick, as it is being summed up.
#[derive(Default)]
struct Sum<'a> {
    interval: Counters,
    running: u32,
    exited: u32,
    /// The oldest that runs.
    oldest: Option<(Slot, &'a Pulse)>,
    /// The last that exited.
    last: Option<(Slot, &'a Pulse)>,
}

/// Makes `sample`, whatever it was, the watch's: what its members counted from the
/// reading before to the last one. `detail`: with each process's part. What is in
/// memory already is used again, as most of a sample is the same tick after tick.
pub(super) fn fill(watch: &mut Watch, table: &Table, detail: bool, sample: &mut v1::NetIoSample) {
    let mut sum = Sum::default();
    let mut parts = 0;
    for member in &mut watch.members {
        if let Some(pulse) = table.pulse(member.slot) {
            let interval = member.advance(pulse.reading);
            sum.add(member.slot, pulse, interval);
            if detail && let Some(process) = table.get(member.slot) {
                if parts == sample.processes.len() {
                    sample.processes.push(v1::ProcessSample::default());
                }
                if let Some(part) = sample.processes.get_mut(parts) {
                    set_process(&mut part.process, Some(&process.about));
                    let total = member.seen - member.baseline;
                    *part = part_of(part.process.take(), pulse.exited, interval, total);
                }
                parts += 1;
            }
        }
    }
    if detail {
        sample.processes.truncate(parts);
        let age = |part: &v1::ProcessSample| {
            let process = part.process.as_ref();
            process.map(|it| (it.start_time_ns, it.pid))
        };
        sample.processes.sort_by_key(age);
    } else {
        // Its memory too: parts may not be wanted again.
        sample.processes = Vec::new();
    }
    let shared = take_shared(watch, table, &mut sum);
    watch.total += sum.interval;
    if let Some((slot, pulse)) = sum.oldest.or(sum.last) {
        let as_of = (pulse.id, pulse.execs);
        if watch.main.as_ref().is_none_or(|main| main.as_of != as_of) {
            watch.main = table.get(slot).map(|process| Main {
                process: process.about.clone(),
                as_of,
            });
        }
    }
    // All fields are here, so that nothing stays of what the sample was.
    let v1::NetIoSample {
        watch_id,
        process,
        state,
        sent_bytes,
        received_bytes,
        sent_calls,
        received_calls,
        sent_bytes_total,
        received_bytes_total,
        sent_calls_total,
        received_calls_total,
        process_count,
        processes: _, // see above
        unlisted,
    } = sample;
    watch.id.clone_into(watch_id);
    set_process(process, watch.main.as_ref().map(|main| &main.process));
    *state = state_of(sum.running, watch.selector.is_rule()).into();
    *sent_bytes = sum.interval.sent_bytes;
    *received_bytes = sum.interval.received_bytes;
    *sent_calls = sum.interval.sent_calls;
    *received_calls = sum.interval.received_calls;
    *sent_bytes_total = watch.total.sent_bytes;
    *received_bytes_total = watch.total.received_bytes;
    *sent_calls_total = watch.total.sent_calls;
    *received_calls_total = watch.total.received_calls;
    *process_count = sum.running + sum.exited;
    *unlisted = shared.filter(|_| detail);
}

fn state_of(running: u32, is_rule: bool) -> v1::ProcessState {
    match (running, is_rule) {
        (1.., _) => v1::ProcessState::Running,
        (0, true) => v1::ProcessState::Waiting,
        (0, false) => v1::ProcessState::Exited,
    }
}

/// Adds what the watch's families counted; gives the part of the processes that
/// have no line of their own, if there ever were any.
fn take_shared(watch: &mut Watch, table: &Table, sum: &mut Sum<'_>) -> Option<v1::ProcessSample> {
    let (mut interval, mut runs) = (Counters::default(), false);
    for member in &mut watch.shared {
        if let Some(family) = table.families.get(&member.slot) {
            interval += member.advance(family.reading);
            sum.running = sum.running.saturating_add(family.sharers);
            runs |= family.sharers > 0;
        }
    }
    sum.interval += interval;
    watch.unlisted_total += interval;
    watch.had_unlisted |= runs || interval != Counters::default();
    watch
        .had_unlisted
        .then(|| part_of(None, !runs, interval, watch.unlisted_total))
}

impl<'a> Sum<'a> {
    fn add(&mut self, slot: Slot, pulse: &'a Pulse, interval: Counters) {
        self.interval += interval;
        if pulse.exited {
            self.exited += 1;
            self.last = Some((slot, pulse));
            return;
        }
        self.running += 1;
        let start = pulse.id.start_time_ns;
        let oldest = self.oldest.map(|(_, oldest)| oldest.id.start_time_ns);
        if oldest.is_none_or(|oldest| start < oldest) {
            self.oldest = Some((slot, pulse));
        }
    }
}

/// Writes over what is there, if anything.
fn set_process(process: &mut Option<v1::Process>, about: Option<&v1::Process>) {
    let (Some(process), Some(about)) = (process.as_mut(), about) else {
        *process = about.cloned();
        return;
    };
    let v1::Process {
        pid,
        start_time_ns,
        name,
        container_pid,
        cgroup,
    } = process;
    *pid = about.pid;
    *start_time_ns = about.start_time_ns;
    about.name.clone_into(name);
    *container_pid = about.container_pid;
    about.cgroup.clone_into(cgroup);
}

fn part_of(
    process: Option<v1::Process>,
    exited: bool,
    interval: Counters,
    total: Counters,
) -> v1::ProcessSample {
    v1::ProcessSample {
        process,
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
        let slots = watch.members.iter().map(|member| member.slot);
        slots
            .filter(|slot| table.pulse(*slot).is_some_and(|it| !it.exited))
            .filter_map(|slot| table.get(slot))
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
        watch_id: watch.id.clone(),
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
