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
//! kernel that [`attach`] returned is dropped, unless it is kept ([`Keeping`]).

use netio::v1;

use crate::{
    Limits,
    btf::Btf,
    keep::{Keep, State},
    kernel::{AllowError, Kernel, KernelInfo, refusing::RefusingKernel},
};

mod attach;
mod blind_spots;
mod changes;
mod choice;
mod error;
mod facts;
mod fields;
mod hand_over;
mod kretprobe;
mod lives;
mod mapped;
mod modes;
mod object;
pub(crate) mod pid_namespace;
mod pins;
mod preemption;
mod probes;
mod self_check;
mod sizes;
mod sys;

pub(crate) use choice::may_use_kprobes;
pub use choice::{HookChoice, mode_name};
use error::AttachError;
pub(crate) use kretprobe::tracefs;
pub(crate) use preemption::is_full as preemption_is_full;
use probes::Probes;
use sizes::Sizes;

/// What to attach.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Which hooks.
    pub hooks: HookChoice,
    /// What to make room for.
    pub limits: Limits,
    /// Whether the kernel counts on without the collector.
    pub keeping: Keeping,
}

/// Whether hooks outlive the collector.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// They are pinned there, and a collector that is started later takes them over.
    In(Keep),
    /// They go with the collector, for this reason.
    Not(String),
}

/// Takes over the hooks that are kept, or attaches the first mode of the choice that
/// works. Never fails: if none does, the kernel it returns refuses to watch, and its
/// info tells causes and remedies.
pub fn attach(options: &ProbeOptions) -> Box<dyn Kernel> {
    if let Err(elsewhere) = pid_namespace::is_initial() {
        tracing::error!(cause = %elsewhere, "nothing can be counted");
        let modes = options.hooks.modes(false);
        let attempts = modes.iter().map(|mode| v1::ModeAttempt {
            mode: (*mode).into(),
            cause: elsewhere.to_string(),
            remedy: pid_namespace::REMEDY.to_owned(),
        });
        return detached(attempts.collect());
    }
    if let Keeping::In(keep) = &options.keeping {
        let left = keep.state().and_then(|state| match state {
            Some(state) => take_over(keep, state, options).map(Some),
            None if keep.generations().next().is_some() => {
                Err("there are pins, and no state that belongs to them".to_owned())
            }
            None => Ok(None),
        });
        match left {
            Ok(Some(probes)) => return Box::new(probes),
            Ok(None) => {}
            Err(why) => tracing::warn!(
                %why,
                "what a collector before this one has left cannot be taken over: everything begins anew"
            ),
        }
    }
    let mut attempts = Vec::new();
    let btf = kernel_types();
    let preemptible = preemption::is_full();
    if preemptible {
        tracing::info!(
            "this kernel preempts everywhere, as far as can be told: trampolines come last"
        );
    }
    let slots = options.limits.slots();
    for mode in options.hooks.modes(preemptible) {
        match Probes::attach(*mode, btf.as_ref(), slots, &options.keeping) {
            Ok(mut probes) => {
                tracing::info!(
                    mode = mode_name(*mode),
                    programs = probes.info.programs.len(),
                    "attached the probes"
                );
                probes.set_attempts(attempts);
                // Only now: what was left counts on until others do, and is there still
                // for the next collector if none can.
                if let Keeping::In(keep) = &options.keeping {
                    sweep(keep, probes.pinned());
                }
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

/// Goes on with the hooks that the state tells of, or tells why not.
fn take_over(keep: &Keep, state: State, options: &ProbeOptions) -> Result<Probes, String> {
    let hooks = state.hooks.clone().unwrap_or_default();
    let slots = options.limits.slots();
    let modes = options.hooks.modes(preemption::is_full());
    if !modes.iter().any(|mode| i32::from(*mode) == hooks.mode) {
        return Err("it had another hook mode".to_owned());
    }
    let btf = kernel_types();
    let probes = Probes::take_over(keep, state, btf.as_ref()).map_err(|error| error.to_string())?;
    // What was left behind when a hand-over was broken off.
    sweep(keep, Some(hooks.generation));
    tracing::info!(
        mode = mode_name(probes.info.hook_mode),
        generation = hooks.generation,
        "took over the probes, which have counted on"
    );
    if let Ok(now) = Sizes::of_host(slots)
        && hooks.pids < now.pids
    {
        tracing::warn!(
            "the allow-list that goes on holds pids below {}, and kernel.pid_max was raised since: \
             for larger ones, stop the collector without --keep-at-stop, or uninstall, and start it again",
            hooks.pids
        );
    }
    if (hooks.object, hooks.slots) == (object::fingerprint(), slots) {
        return Ok(probes);
    }
    Ok(renewed(probes, btf.as_ref(), slots))
}

fn sweep(keep: &Keep, but: Option<u32>) {
    if let Err(error) = keep.sweep(but) {
        tracing::warn!(%error, "old pins cannot be removed");
    }
}

/// Goes over to this collector's own programs and limits; if that cannot be, those of
/// before go on.
fn renewed(mut before: Probes, btf: Option<&Btf>, slots: u32) -> Probes {
    match before.hand_over(btf, slots) {
        Ok(next) => {
            before.release();
            tracing::info!("the probes of before have handed over to others");
            next
        }
        Err(error) => {
            tracing::warn!(
                cause = %error,
                "the probes of before go on, with the limits that they were attached with; try to start the collector again later"
            );
            before
        }
    }
}

/// Attaches a mode that has worked here before; if it does not any more, the
/// kernel it returns refuses to watch, and says why.
fn attach_again(
    mode: v1::HookMode,
    slots: u32,
    follows_children: bool,
    attempts: &[v1::ModeAttempt],
    keeping: &Keeping,
) -> Box<dyn Kernel> {
    let attached = Probes::attach(mode, kernel_types().as_ref(), slots, keeping);
    let same = attached.and_then(|mut probes| {
        // What was said of children must stay true.
        if follows_children && !probes.info.follows_children {
            probes.release();
            return Err(AttachError::new("children cannot be followed any more"));
        }
        Ok(probes)
    });
    match same {
        Ok(mut probes) => {
            tracing::info!(mode = mode_name(mode), "attached the probes again");
            probes.set_attempts(attempts.to_vec());
            Box::new(probes)
        }
        Err(error) => {
            tracing::error!(mode = mode_name(mode), cause = %error, "the probes do not attach again");
            detached(vec![v1::ModeAttempt {
                mode: mode.into(),
                remedy: modes::remedy(mode, &error).to_owned(),
                cause: error.0,
            }])
        }
    }
}

/// Programs at the exits of functions, in whatever mode.
const AT_EXITS: [&str; 4] = ["send_v4", "splice_read", "splice_read_tcp", "sendpage"];

/// What came of trying a mode.
pub(crate) enum Trial {
    /// It works, like this.
    Counts(KernelInfo),
    /// It does not, for this reason, about which this can be done.
    Fails(String, &'static str),
    /// A collector counts at the exits of functions, and would lose the calls that are
    /// under way there.
    NotTried,
}

/// Attaches a mode and lets go of it again.
pub(crate) fn try_mode(mode: v1::HookMode, btf: Option<&Btf>) -> Trial {
    let is_at_exits = match mode {
        v1::HookMode::Fentry => true,
        v1::HookMode::Tracepoint => !preemption::is_full(),
        v1::HookMode::Kprobe | v1::HookMode::Unspecified => false,
    };
    if is_at_exits && AT_EXITS.into_iter().any(facts::is_loaded) {
        return Trial::NotTried;
    }
    let keeping = Keeping::Not("it is tried out".to_owned());
    match Probes::attach(mode, btf, 1, &keeping) {
        Ok(probes) => Trial::Counts(probes.info),
        Err(error) => Trial::Fails(error.to_string(), modes::remedy(mode, &error)),
    }
}

/// The kernel's BTF, if it has any.
pub(crate) fn kernel_types() -> Option<Btf> {
    Btf::of_kernel()
        .inspect_err(|error| tracing::warn!(%error, "the kernel's types are not known"))
        .ok()
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
    use crate::kernel::{ProcessId, Slot};

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
