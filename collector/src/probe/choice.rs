//! Which hooks to count with, and in which order to try them.
#![forbid(unsafe_code)]

use std::fmt;

use netio::v1;

use super::{kernel_types, preemption};
use crate::btf::Btf;

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
    pub(super) fn modes(self, preemptible: bool) -> &'static [v1::HookMode] {
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

/// Whether kprobes may be what is taken, found out without attaching anything: they
/// were asked for by name, or come before trampolines and the kernel has no tracepoint
/// that would come before them.
pub(crate) fn may_use_kprobes(hooks: HookChoice) -> bool {
    let has_tracepoint = |types: Btf| types.has_function("__traceiter_sock_send_length");
    match hooks {
        HookChoice::Kprobe => true,
        HookChoice::Auto => preemption::is_full() && !kernel_types().is_none_or(has_tracepoint),
        HookChoice::Tracepoint | HookChoice::Fentry => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trampolines_come_last_where_they_lose_calls() {
        use v1::HookMode::{Fentry, Kprobe, Tracepoint};
        assert_eq!(HookChoice::Auto.modes(false), [Tracepoint, Fentry, Kprobe]);
        assert_eq!(HookChoice::Auto.modes(true), [Tracepoint, Kprobe, Fentry]);
        assert_eq!(HookChoice::Fentry.modes(true), [Fentry]);
    }
}
