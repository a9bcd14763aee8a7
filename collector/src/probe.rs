//! The hooks: loads the programs, attaches one mode's set of them, and is the
//! [`Kernel`] that the rest of the collector knows.
//!
//! | mode | sends | receives | kernels |
//! |---|---|---|---|
//! | tracepoint | `sock:sock_send_length` | `sock:sock_recv_length`, and what bypasses it | 6.3 and later |
//! | fentry | fexit of `inet_sendmsg`, `inet_sendpage` | fexit of `inet_recvmsg`, `sock_splice_read`, ... | with trampolines |
//! | kprobe | kretprobe of `tcp_sendmsg`, ... | kprobe of `tcp_cleanup_rbuf` | with kprobes and BTF, x86-64 |
//!
//! Programs see the pids of the initial pid namespace, so nothing is attached in
//! another one: a pid would name somebody else's process.
//!
//! Whether a mode works is found by attaching it and letting it count a byte,
//! never by the kernel's version. Everything that is attached goes when the
//! kernel that [`attach`] returned is dropped.

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use aya::programs::{Program, ProgramError};
use netio::v1;
use netio_abi::{FULL_PROCESSES, FULL_SOCKETS, NO_SLOT, WISH_CHANGES, WISH_TGID};

use crate::{
    Limits,
    btf::Btf,
    kernel::{
        AllowError, Birth, Changes, Counters, Kernel, KernelInfo, LifeNow, ProcessId, Slot,
        refusing::RefusingKernel,
    },
};

mod attach;
mod blind_spots;
mod changes;
mod fields;
mod kretprobe;
mod lives;
mod mapped;
mod modes;
mod object;
pub(crate) mod pid_namespace;
mod preemption;
mod self_check;
mod sys;

use attach::Attached;
pub(crate) use kretprobe::tracefs;
pub(crate) use preemption::is_full as preemption_is_full;

/// Which hooks to count with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// The first of the others that attaches, in their order (fentry last on a
    /// fully preemptible kernel, where it loses calls).
    #[default]
    Auto,
    /// The socket layer's tracepoints (Linux 6.3 and later).
    Tracepoint,
    /// fexit trampolines.
    Fentry,
    /// kprobes and kretprobes.
    Kprobe,
}

impl HookChoice {
    /// The modes to try, in this order. Trampolines lose calls on a kernel that
    /// preempts everywhere, so there they come last.
    fn modes(self, preemptible: bool) -> &'static [v1::HookMode] {
        use v1::HookMode::{Fentry, Kprobe, Tracepoint};
        match self {
            Self::Auto if preemptible => &[Tracepoint, Kprobe, Fentry],
            Self::Auto => &[Tracepoint, Fentry, Kprobe],
            Self::Tracepoint => &[Tracepoint],
            Self::Fentry => &[Fentry],
            Self::Kprobe => &[Kprobe],
        }
    }
}

impl fmt::Display for HookChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        })
    }
}

/// The mode's name, as the command line has it.
pub fn mode_name(mode: v1::HookMode) -> &'static str {
    match mode {
        v1::HookMode::Unspecified => "none",
        v1::HookMode::Tracepoint => "tracepoint",
        v1::HookMode::Fentry => "fentry",
        v1::HookMode::Kprobe => "kprobe",
    }
}

/// What to attach.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// Which hooks.
    pub hooks: HookChoice,
    /// What to make room for.
    pub limits: Limits,
}

/// Why a mode could not be attached: a chain of causes in one line.
#[derive(Debug)]
pub(crate) struct AttachError(String);

impl AttachError {
    fn new(cause: impl Into<String>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for AttachError {
    fn from(error: E) -> Self {
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors repeat their source in their own text.
            if !chain.contains(&cause_text) {
                chain = format!("{chain}: {cause_text}");
            }
            source = cause.source();
        }
        Self(shortened(&chain))
    }
}

/// An error's text without the verifier's log, but for the two lines before its
/// statistics, which name the fault.
fn shortened(text: &str) -> String {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let Some((head, log)) = text.split_once("Verifier output:") else {
        return text.trim().to_owned();
    };
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word)))
        .collect();
    let tail = lines[lines.len().saturating_sub(2)..].join(" / ");
    let head = head.trim().trim_end_matches('.');
    if tail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}; verifier: {tail}")
    }
}

/// Attaches the first mode of the choice that works. Never fails: if none does,
/// the kernel it returns refuses to watch, and its info tells causes and
/// remedies.
pub fn attach(options: &ProbeOptions) -> Box<dyn Kernel> {
    let mut attempts = Vec::new();
    if let Err(elsewhere) = pid_namespace::is_initial() {
        tracing::error!(cause = %elsewhere, "nothing can be counted");
        attempts.extend(
            options
                .hooks
                .modes(false)
                .iter()
                .map(|mode| v1::ModeAttempt {
                    mode: (*mode).into(),
                    cause: elsewhere.to_string(),
                    remedy: pid_namespace::REMEDY.to_owned(),
                }),
        );
        return detached(attempts);
    }
    let btf = kernel_types();
    let preemptible = preemption::is_full();
    if preemptible {
        tracing::info!(
            "this kernel preempts everywhere, as far as can be told: trampolines come last"
        );
    }
    for mode in options.hooks.modes(preemptible) {
        match Probes::attach(*mode, btf.as_ref(), options.limits.slots()) {
            Ok(mut probes) => {
                tracing::info!(
                    mode = mode_name(*mode),
                    programs = probes.info.programs.len(),
                    "attached the probes"
                );
                probes.info.attempts = attempts;
                return Box::new(probes);
            }
            Err(error) => {
                tracing::info!(mode = mode_name(*mode), cause = %error, "this mode does not attach");
                attempts.push(v1::ModeAttempt {
                    mode: (*mode).into(),
                    remedy: modes::remedy(*mode, &error).to_owned(),
                    cause: error.0,
                });
            }
        }
    }
    tracing::error!("no hook mode attaches: nothing can be counted; see the doctor command");
    detached(attempts)
}

/// Attaches a mode and lets go of it again: how it works here, or cause and
/// remedy.
pub(crate) fn try_mode(
    mode: v1::HookMode,
    btf: Option<&Btf>,
) -> Result<KernelInfo, (String, &'static str)> {
    Probes::attach(mode, btf, 1)
        .map(|probes| probes.info)
        .map_err(|error| (error.to_string(), modes::remedy(mode, &error)))
}

/// The kernel's BTF, if it has any.
pub(crate) fn kernel_types() -> Option<Btf> {
    Btf::of_kernel()
        .inspect_err(|error| tracing::warn!(%error, "the kernel's types are not known"))
        .ok()
}

/// One mode's programs, attached.
struct Probes {
    // Dropped first: nothing counts once the maps' memory goes.
    attached: Attached,
    info: KernelInfo,
}

impl Probes {
    fn attach(mode: v1::HookMode, btf: Option<&Btf>, slots: u32) -> Result<Self, AttachError> {
        let attached = modes::attach(mode, btf, slots)?;
        self_check::self_check(&attached)?;
        let info = KernelInfo {
            hook_mode: mode,
            programs: attached.programs.clone(),
            blind_spots: blind_spots::of(mode, &attached, btf, preemption::is_full()),
            attempts: Vec::new(),
            received_calls_meaning: blind_spots::received_calls(mode, &attached).to_owned(),
            follows_children: attached.follows_children,
        };
        Ok(Self { attached, info })
    }

    /// Notes where the reading of each of the process's sockets stands, if the
    /// mode needs to know.
    fn note_sockets(&mut self, tgid: u32) -> Result<(), AttachError> {
        let Some(note) = self.attached.note_program else {
            return Ok(());
        };
        self.attached.object.wishes.set(WISH_TGID, tgid.into());
        let program = self.attached.object.program(note)?;
        sys::iterate_files(program.fd()?.as_fd(), tgid)?;
        Ok(())
    }

    fn prepare(&mut self, tgid: u32) -> Result<(), AllowError> {
        let max_pid = self.max_pid();
        if tgid >= max_pid {
            return Err(AllowError::PidBeyondAllowList { pid: tgid, max_pid });
        }
        self.note_sockets(tgid)
            .map_err(|error| AllowError::Sockets {
                pid: tgid,
                source: io::Error::other(error.to_string()),
            })
    }
}

impl Kernel for Probes {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn missed_events(&self) -> v1::MissedEvents {
        // Of what cannot be read, nothing is said: zero would be a claim.
        let recursion = self
            .attached
            .names()
            .filter_map(|name| self.attached.object.ebpf.program(name))
            .map(|program| recursion_misses(program).ok()?)
            .sum();
        let kretprobe = self
            .attached
            .kretprobes
            .iter()
            .map(|probe| probe.missed().ok())
            .sum();
        v1::MissedEvents {
            recursion,
            kretprobe,
        }
    }

    fn program_runs(&self) -> Option<(u64, Duration)> {
        let enabled = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").ok()?;
        if enabled.trim() == "0" {
            return None;
        }
        let infos = self
            .attached
            .names()
            .filter_map(|name| self.attached.object.ebpf.program(name)?.info().ok());
        Some(infos.fold((0, Duration::ZERO), |(runs, time), info| {
            (runs + info.run_count(), time + info.run_time())
        }))
    }

    fn map_full(&self) -> v1::MapFull {
        let full = &self.attached.object.full;
        v1::MapFull {
            processes: full.get(FULL_PROCESSES),
            sockets: full.get(FULL_SOCKETS),
        }
    }

    fn max_pid(&self) -> u32 {
        self.attached.object.allow_list.pids()
    }

    fn take(&mut self) -> Option<Slot> {
        self.attached.object.lives.take()
    }

    fn give(&mut self, slot: Slot) {
        self.attached.object.lives.give(slot);
    }

    fn allow(
        &mut self,
        process: ProcessId,
        slot: Slot,
        family: Option<Slot>,
    ) -> Result<(), AllowError> {
        self.prepare(process.tgid)?;
        let object = &self.attached.object;
        object.lives.begin(process, slot, family);
        object.enter(process.tgid, slot)
    }

    fn share(&mut self, process: ProcessId, family: Slot) -> Result<(), AllowError> {
        self.prepare(process.tgid)?;
        let object = &self.attached.object;
        // Before the entry is there: its exit takes one off.
        object.lives.add_sharers(family, 1);
        object.enter(process.tgid, family).inspect_err(|_| {
            object.lives.add_sharers(family, u32::MAX);
        })
    }

    fn shares(&self, tgid: u32) -> Option<Slot> {
        let object = &self.attached.object;
        let slot = Slot(object.allow_list.entry(tgid));
        (slot.0 != NO_SLOT && object.lives.is_family(slot)).then_some(slot)
    }

    fn deny(&mut self, tgid: u32, slot: Slot) -> bool {
        self.attached
            .object
            .allow_list
            .replace(tgid, slot.0, NO_SLOT)
    }

    fn unshare(&mut self, tgid: u32, family: Slot) {
        if self.deny(tgid, family) {
            self.attached.object.lives.add_sharers(family, u32::MAX);
        }
    }

    fn take_born_into(&mut self, slot: Slot) -> Option<Slot> {
        self.attached.object.lives.take_born_into(slot)
    }

    fn close_family(&mut self, family: Slot) {
        let object = &self.attached.object;
        object.lives.close(family);
        if object.lives.sharers(family) > 0 {
            let swept = object.allow_list.sweep(family);
            object.lives.add_sharers(family, swept.wrapping_neg());
        }
    }

    fn set_family(&mut self, slot: Slot, family: Option<Slot>) {
        self.attached.object.lives.set_family(slot, family);
    }

    fn set_budget(&mut self, family: Slot, budget: u32) {
        self.attached.object.lives.set_budget(family, budget);
    }

    fn sharers(&self, family: Slot) -> u32 {
        self.attached.object.lives.sharers(family)
    }

    fn births(&mut self) -> Vec<Birth> {
        self.attached.object.lives.births()
    }

    fn life(&self, slot: Slot) -> LifeNow {
        self.attached.object.lives.now(slot)
    }

    fn name(&self, slot: Slot) -> Vec<u8> {
        self.attached.object.lives.name(slot)
    }

    fn read(&self, slot: Slot) -> Counters {
        self.attached.object.banks.read(slot)
    }

    fn changes(&mut self) -> Option<Changes> {
        self.attached
            .object
            .take_changes()
            .and_then(changes::stream)
            .inspect_err(|error| tracing::warn!(%error, "changes of processes cannot be read"))
            .ok()
    }

    fn wish_changes(&mut self, wish: bool) {
        self.attached.object.wishes.set(WISH_CHANGES, wish.into());
    }
}

/// The kernel shows it among a program's file-descriptor facts since 5.12.
fn recursion_misses(program: &Program) -> Result<Option<u64>, AttachError> {
    let fd = program
        .fd()
        .map_err(|error: ProgramError| AttachError::from(error))?;
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    Ok(fact(&facts, "recursion_misses:"))
}

fn fact(facts: &str, key: &str) -> Option<u64> {
    facts
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// No mode attaches: refuses to watch, and says why.
fn detached(attempts: Vec<v1::ModeAttempt>) -> Box<dyn Kernel> {
    let causes: Vec<String> = attempts
        .iter()
        .map(|attempt| {
            format!(
                "{}: {} ({})",
                mode_name(attempt.mode()),
                attempt.cause,
                attempt.remedy
            )
        })
        .collect();
    let info = KernelInfo {
        attempts,
        ..KernelInfo::default()
    };
    let why = move |_| AllowError::NotAttached(causes.join("; "));
    Box::new(RefusingKernel::new(info, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifiers_log_is_cut_to_what_names_the_fault() {
        assert_eq!(shortened("load failed. Verifier output: \n"), "load failed");
        let log = "load failed. Verifier output: 0: (b7) r0 = 0\nR1 invalid\nprocessed 2 insns\n";
        assert_eq!(
            shortened(log),
            "load failed; verifier: 0: (b7) r0 = 0 / R1 invalid"
        );
    }

    #[test]
    fn trampolines_come_last_where_they_lose_calls() {
        use v1::HookMode::{Fentry, Kprobe, Tracepoint};
        assert_eq!(HookChoice::Auto.modes(false), [Tracepoint, Fentry, Kprobe]);
        assert_eq!(HookChoice::Auto.modes(true), [Tracepoint, Kprobe, Fentry]);
        assert_eq!(HookChoice::Fentry.modes(true), [Fentry]);
    }

    #[test]
    fn reads_a_fact_of_a_program() {
        let facts = "pos:\t0\nprog_id:\t7\nrecursion_misses:\t12\n";
        assert_eq!(fact(facts, "recursion_misses:"), Some(12));
        assert_eq!(fact(facts, "run_cnt:"), None);
    }

    #[test]
    fn a_detached_kernel_says_why() {
        let mut kernel = detached(vec![v1::ModeAttempt {
            mode: v1::HookMode::Kprobe.into(),
            cause: "no kprobes".to_owned(),
            remedy: "turn them on".to_owned(),
        }]);
        let process = ProcessId {
            tgid: 1,
            start_time_ns: 0,
        };
        let error = kernel
            .allow(process, Slot(1), None)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no probes are attached: kprobe: no kprobes (turn them on)"
        );
    }
}
