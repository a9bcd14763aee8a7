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

use netio::v1;

use crate::{
    Limits,
    btf::Btf,
    kernel::{AllowError, Kernel, KernelInfo, refusing::RefusingKernel},
};

mod attach;
mod blind_spots;
mod changes;
mod choice;
mod error;
mod fields;
mod kretprobe;
mod lives;
mod mapped;
mod modes;
mod object;
pub(crate) mod pid_namespace;
mod preemption;
mod probes;
mod self_check;
mod sys;

pub(crate) use choice::may_use_kprobes;
pub use choice::{HookChoice, mode_name};
use error::AttachError;
pub(crate) use kretprobe::tracefs;
pub(crate) use preemption::is_full as preemption_is_full;
use probes::Probes;

/// What to attach.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// Which hooks.
    pub hooks: HookChoice,
    /// What to make room for.
    pub limits: Limits,
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

/// Attaches a mode that has worked here before; if it does not any more, the
/// kernel it returns refuses to watch, and says why.
fn attach_again(
    mode: v1::HookMode,
    slots: u32,
    follows_children: bool,
    attempts: &[v1::ModeAttempt],
) -> Box<dyn Kernel> {
    let attached = Probes::attach(mode, kernel_types().as_ref(), slots);
    let same = attached.and_then(|probes| {
        // What was said of children must stay true.
        if follows_children && !probes.info.follows_children {
            return Err(AttachError::new("children cannot be followed any more"));
        }
        Ok(probes)
    });
    match same {
        Ok(mut probes) => {
            tracing::info!(mode = mode_name(mode), "attached the probes again");
            probes.info.attempts = attempts.to_vec();
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
