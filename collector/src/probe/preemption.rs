//! Whether the kernel may preempt a program in the middle.
//!
//! Programs at trampolines (fexit) run preemptible. The kernel refuses to enter
//! a program that is active on the same CPU already (`__bpf_prog_enter_recur`),
//! so while a thread is preempted inside one, the calls of all other threads on
//! that CPU go uncounted: some per cent of a busy process's bytes. Tracepoint
//! and kprobe programs run with preemption off and lose nothing.
//!
//! A kernel preempts everywhere if it was built so, or, with PREEMPT_DYNAMIC, if
//! it was told so at boot or later.

use std::{fs, path::Path};

/// Whether kernel code may be preempted anywhere; true also if that cannot be
/// found out, since then trampolines must not be relied on.
pub(crate) fn is_full() -> bool {
    let uname = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(Path::new(path)).ok();
    full(&Facts {
        version: &uname.version().to_string_lossy(),
        selected: read("/sys/kernel/debug/sched/preempt").as_deref(),
        command_line: &read("/proc/cmdline").unwrap_or_default(),
        config: read(&format!(
            "/boot/config-{}",
            uname.release().to_string_lossy()
        ))
        .as_deref(),
    })
}

struct Facts<'a> {
    /// `uname -v`
    version: &'a str,
    /// debugfs: `none voluntary (full)`
    selected: Option<&'a str>,
    command_line: &'a str,
    /// The configuration that the kernel was built with.
    config: Option<&'a str>,
}

fn full(facts: &Facts<'_>) -> bool {
    let model = facts
        .version
        .split_whitespace()
        .find(|word| word.starts_with("PREEMPT"));
    match model {
        None => false,
        Some("PREEMPT_DYNAMIC") => dynamically_full(facts),
        // PREEMPT, PREEMPT_RT, PREEMPT_LAZY
        Some(_) => true,
    }
}

fn dynamically_full(facts: &Facts<'_>) -> bool {
    let limited = |word: &str| matches!(word, "none" | "voluntary");
    if let Some((_, rest)) = facts.selected.and_then(|text| text.split_once('(')) {
        return !rest.split_once(')').is_some_and(|(word, _)| limited(word));
    }
    let option = |word: &'_ str| word.strip_prefix("preempt=").map(limited);
    if let Some(limited) = facts
        .command_line
        .split_whitespace()
        .filter_map(option)
        .next_back()
    {
        return !limited;
    }
    let limits = ["CONFIG_PREEMPT_NONE=y", "CONFIG_PREEMPT_VOLUNTARY=y"];
    !facts
        .config
        .is_some_and(|config| config.lines().any(|line| limits.contains(&line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYNAMIC: Facts<'_> = Facts {
        version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.1",
        selected: None,
        command_line: "quiet",
        config: None,
    };

    #[test]
    fn the_build_decides_if_it_is_fixed() {
        assert!(!full(&Facts {
            version: "#1 SMP Debian",
            ..DYNAMIC
        }));
        assert!(full(&Facts {
            version: "#1 SMP PREEMPT Debian",
            ..DYNAMIC
        }));
        assert!(full(&Facts {
            version: "#1 SMP PREEMPT_RT Debian",
            ..DYNAMIC
        }));
    }

    #[test]
    fn what_runs_now_goes_before_what_was_asked_at_boot_and_at_build() {
        let now = |selected| Facts {
            selected: Some(selected),
            command_line: "preempt=full",
            ..DYNAMIC
        };
        assert!(!full(&now("none (voluntary) full\n")));
        assert!(full(&now("none voluntary (full)\n")));
        assert!(full(&now("none voluntary full (lazy)\n")));

        let boot = |command_line| Facts {
            command_line,
            config: Some("CONFIG_PREEMPT_VOLUNTARY=y\n"),
            ..DYNAMIC
        };
        assert!(full(&boot("quiet preempt=full")));
        assert!(!full(&boot("quiet preempt=none")));
        assert!(!full(&boot("quiet")));
    }

    #[test]
    fn what_cannot_be_found_out_is_taken_for_preemptible() {
        assert!(full(&DYNAMIC));
        assert!(full(&Facts {
            config: Some("CONFIG_PREEMPT=y\n"),
            ..DYNAMIC
        }));
    }
}
