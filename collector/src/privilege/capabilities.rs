//! Capabilities: which are needed for what, which this process has, and how the
//! rest is given up.
#![forbid(unsafe_code)]

use std::{fmt, fs};

use rustix::{
    io::Errno,
    process::geteuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::PrivilegeError;
use crate::probe::{HookChoice, may_use_kprobes};

/// A capability that the collector has a use for.
#[derive(Debug)]
pub struct Need {
    /// The kernel's name for it: "CAP_BPF".
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// What is lost where it is missing.
    pub cost: &'static str,
    /// Whether nothing can be counted without it.
    pub vital: bool,
    capability: CapabilitySet,
    /// A wider one that does as well, where only that was granted.
    instead: Option<(CapabilitySet, &'static str)>,
}

/// Everything that the collector has a use for.
pub const NEEDS: [Need; 4] = [
    Need {
        name: "CAP_BPF",
        purpose: "loads programs and makes their maps",
        cost: "nothing can be counted",
        vital: true,
        capability: CapabilitySet::BPF,
        instead: Some((CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")),
    },
    Need {
        name: "CAP_PERFMON",
        purpose: "attaches programs, which read the kernel's memory",
        cost: "nothing can be counted",
        vital: true,
        capability: CapabilitySet::PERFMON,
        instead: Some((CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")),
    },
    Need {
        name: "CAP_SYS_PTRACE",
        purpose: "reads which executable and which sockets a process has",
        cost: "no process is found by port or by its executable's name or path, and discover \
               tells no ports; pids, kernel names (comm), cgroups, units and containers work",
        vital: false,
        capability: CapabilitySet::SYS_PTRACE,
        instead: None,
    },
    Need {
        name: "CAP_DAC_READ_SEARCH",
        purpose: "reads which sockets the processes of other users have",
        cost: "no other user's process is found by port, and discover tells no ports of theirs",
        vital: false,
        capability: CapabilitySet::DAC_READ_SEARCH,
        instead: Some((CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE")),
    },
];

/// What a process may do of all that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(CapabilitySet);

/// What this thread may do.
pub fn held() -> Result<Held, PrivilegeError> {
    let sets = capabilities(None).map_err(PrivilegeError::keeping("cannot read capabilities"))?;
    Ok(Held(sets.permitted))
}

impl Held {
    /// Nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(CapabilitySet::empty())
    }

    /// Whether it has what a need asks for, or something wider.
    pub fn has(self, need: &Need) -> bool {
        self.0.contains(need.capability)
            || need
                .instead
                .is_some_and(|(wider, _)| self.0.contains(wider))
    }

    /// The needs that are not met.
    pub fn missing(self) -> impl Iterator<Item = &'static Need> {
        NEEDS.iter().filter(move |need| !self.has(need))
    }

    /// What it keeps of it, `beside` included.
    fn kept(self, beside: CapabilitySet) -> CapabilitySet {
        let mut kept = self.0 & beside;
        for need in &NEEDS {
            if self.0.contains(need.capability) {
                kept |= need.capability;
            } else if let Some((wider, _)) = need.instead {
                kept |= self.0 & wider;
            }
        }
        kept
    }
}

/// What kprobes need beside: who is not root cannot write to tracefs without
/// CAP_DAC_OVERRIDE; and Debian's and Ubuntu's kernels, where
/// `kernel.perf_event_paranoid` is 3 or more, leave perf events to CAP_SYS_ADMIN.
fn for_kprobes(is_root: bool, perf_event_paranoid: Option<i32>) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    if !is_root {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    if perf_event_paranoid.is_some_and(|level| level > 2) {
        needed |= CapabilitySet::SYS_ADMIN;
    }
    needed
}

fn perf_event_paranoid() -> Option<i32> {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    level.trim().parse().ok()
}

/// The names, as in "CAP_BPF, CAP_PERFMON".
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = NEEDS.iter().map(|need| (need.capability, need.name));
        let wider = [
            (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        ];
        let mut rest = self.0;
        let mut names = Vec::new();
        for (capability, name) in own.chain(wider) {
            if self.0.contains(capability) {
                names.push(name);
                rest -= capability;
            }
        }
        match (names.is_empty(), rest.bits().count_ones()) {
            (true, 0) => f.write_str("none"),
            (_, 0) => f.write_str(&names.join(", ")),
            (true, others) => write!(f, "{others} others"),
            (false, others) => write!(f, "{} and {others} others", names.join(", ")),
        }
    }
}

/// Gives up every capability but those of [`NEEDS`] and what kprobes need beside,
/// where they may be used; and that any could be had
/// again: those that are kept could not be passed on to another program either.
/// Tells what is kept. Called while this is the only thread: capabilities are each
/// thread's own.
pub fn drop_capabilities(hooks: HookChoice) -> Result<Held, PrivilegeError> {
    let beside = if may_use_kprobes(hooks) {
        for_kprobes(geteuid().is_root(), perf_event_paranoid())
    } else {
        CapabilitySet::empty()
    };
    let kept = held()?.kept(beside);
    set_no_new_privs(true).map_err(PrivilegeError::keeping("cannot set no_new_privs"))?;
    clear_ambient_capability_set().map_err(PrivilegeError::keeping(
        "cannot clear the ambient capabilities",
    ))?;
    clear_bounding_set()?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(PrivilegeError::keeping("cannot drop capabilities"))?;
    let now = capabilities(None).map_err(PrivilegeError::keeping("cannot read capabilities"))?;
    if now != sets {
        return Err(PrivilegeError::keeping(
            "capabilities are left that were dropped",
        )(Errno::PERM));
    }
    Ok(Held(kept))
}

/// What another program could have at most. Only who has CAP_SETPCAP may narrow
/// it; without, no_new_privs alone keeps other programs from having more.
fn clear_bounding_set() -> Result<(), PrivilegeError> {
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Beyond the last that this kernel knows; or not ours to drop.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => {
                let what = "cannot narrow the capability bounding set";
                return Err(PrivilegeError::keeping(what)(error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::thread::{capability_is_in_bounding_set, no_new_privs};

    use super::*;

    #[test]
    fn what_is_needed_is_kept_and_nothing_else() {
        let all = Held(CapabilitySet::all());
        let needed = CapabilitySet::BPF
            | CapabilitySet::PERFMON
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::DAC_READ_SEARCH;
        assert_eq!(all.kept(CapabilitySet::empty()), needed);
        let with_tracefs = needed | CapabilitySet::DAC_OVERRIDE;
        assert_eq!(all.kept(CapabilitySet::DAC_OVERRIDE), with_tracefs);
        assert_eq!(all.missing().count(), 0);

        let none = Held(CapabilitySet::CHOWN);
        assert_eq!(none.kept(CapabilitySet::empty()), CapabilitySet::empty());
        assert_eq!(none.missing().count(), NEEDS.len());
    }

    #[test]
    fn a_wider_one_is_kept_only_where_the_narrow_one_is_missing() {
        let old = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::KILL;
        let wider = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE;
        assert_eq!(Held(old).kept(CapabilitySet::empty()), wider);
        let missing: Vec<_> = Held(old).missing().map(|need| need.name).collect();
        assert_eq!(missing, ["CAP_SYS_PTRACE"]);
        let half = CapabilitySet::SYS_ADMIN | CapabilitySet::BPF;
        assert_eq!(Held(half).kept(CapabilitySet::empty()), half);
    }

    #[test]
    fn kprobes_need_more_where_tracefs_or_perf_events_are_closed() {
        let (tracefs, perf) = (CapabilitySet::DAC_OVERRIDE, CapabilitySet::SYS_ADMIN);
        assert_eq!(for_kprobes(true, Some(2)), CapabilitySet::empty());
        assert_eq!(for_kprobes(true, None), CapabilitySet::empty());
        assert_eq!(for_kprobes(true, Some(3)), perf);
        assert_eq!(for_kprobes(false, Some(4)), tracefs | perf);
        assert_eq!(for_kprobes(false, Some(1)), tracefs);
    }

    #[test]
    fn they_are_named() {
        let told = |set| Held(set).to_string();
        assert_eq!(told(CapabilitySet::empty()), "none");
        let both = CapabilitySet::PERFMON | CapabilitySet::BPF;
        assert_eq!(told(both), "CAP_BPF, CAP_PERFMON");
        assert_eq!(
            told(both | CapabilitySet::CHOWN),
            "CAP_BPF, CAP_PERFMON and 1 others"
        );
        assert_eq!(told(CapabilitySet::CHOWN), "1 others");
    }

    /// In a thread of its own, whose capabilities are its own.
    #[test]
    fn a_thread_has_no_more_after_it() {
        let thread = std::thread::spawn(|| {
            let before = held().unwrap();
            let kept = drop_capabilities(HookChoice::Tracepoint).unwrap();
            assert_eq!(kept.0, before.kept(CapabilitySet::empty()));
            let now = capabilities(None).unwrap();
            assert_eq!((now.effective, now.permitted), (kept.0, kept.0));
            assert_eq!(now.inheritable, CapabilitySet::empty());
            assert!(no_new_privs().unwrap());
            if before.0.contains(CapabilitySet::SETPCAP) {
                assert!(!capability_is_in_bounding_set(CapabilitySet::BPF).unwrap());
                assert!(!capability_is_in_bounding_set(CapabilitySet::CHOWN).unwrap());
            }
            // There is no way back.
            let wished = CapabilitySets {
                permitted: before.0,
                ..now
            };
            assert_eq!(set_capabilities(None, wished).is_err(), before.0 != kept.0);
            // A second time changes nothing.
            assert_eq!(drop_capabilities(HookChoice::Tracepoint).unwrap(), kept);
        });
        thread.join().unwrap();
    }
}
