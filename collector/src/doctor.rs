//! `doctor`: what this machine offers to netio, and what to do about what it
//! does not.
//!
//! Reads facts (kernel, BTF, capabilities, lockdown, sysctls, mounts) and tries
//! each hook mode by loading and attaching it, and letting go again. Changes
//! nothing.

use std::fmt;

use netio::v1;
use serde::Serialize;

use crate::probe::{Trial, kernel_types, mode_name, try_mode};

mod facts;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works without, but something is missing.
    Warn,
    /// Must be put right, or nothing can be counted.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: "kernel", "BTF", "mode tracepoint", ...
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(name: &str, status: Status, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn remedy(mut self, remedy: &str) -> Self {
        self.remedy = Some(remedy.to_owned());
        self
    }
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether at least one hook mode works.
    pub healthy: bool,
    /// In the order they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether at least one hook mode works, so that netio can count here.
    pub fn healthy(&self) -> bool {
        self.healthy
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let mark = match check.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            writeln!(f, "{mark}  {:<19} {}", check.name, check.detail)?;
            if let Some(remedy) = &check.remedy {
                writeln!(f, "{:27}-> {remedy}", "")?;
            }
        }
        writeln!(f)?;
        f.write_str(if self.healthy {
            "netio can count here: start with netio-client watch --pid PID"
        } else {
            "netio cannot count here yet: see the remedies above"
        })
    }
}

/// Looks at this machine.
pub fn run() -> Report {
    let mut checks = facts::all();
    let (works, modes) = modes();
    let lost = |check: &Check| check.name == facts::PID_NAMESPACE && check.status == Status::Fail;
    let healthy = works && !checks.iter().any(lost);
    checks.extend(modes);
    Report { healthy, checks }
}

/// Whether one of them works, and how each fares.
fn modes() -> (bool, Vec<Check>) {
    let btf = kernel_types();
    let mut works = false;
    let checks = [
        v1::HookMode::Tracepoint,
        v1::HookMode::Fentry,
        v1::HookMode::Kprobe,
    ]
    .into_iter()
    .map(|mode| {
        let name = format!("mode {}", mode_name(mode));
        match try_mode(mode, btf.as_ref()) {
            Trial::Counts(info) => {
                works = true;
                let hooks: Vec<String> = info
                    .programs
                    .into_iter()
                    .map(|program| program.hook)
                    .collect();
                Check::new(
                    &name,
                    Status::Ok,
                    format!("attaches and counts: {}", hooks.join(", ")),
                )
            }
            // One mode is enough, so a single one that fails is no failure.
            Trial::Fails(cause, remedy) => Check::new(&name, Status::Warn, cause).remedy(remedy),
            Trial::NotTried => {
                works = true;
                let why = "not tried: a collector counts at the exits of functions, and would \
                           lose calls under way";
                Check::new(&name, Status::Warn, why).remedy("stop that collector to try it")
            }
        }
    })
    .collect();
    (works, checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let report = Report {
            healthy: false,
            checks: vec![
                Check::new("kernel", Status::Ok, "6.1.0"),
                Check::new("BTF", Status::Fail, "absent").remedy("get a kernel with it"),
            ],
        };
        let text = report.to_string();
        assert!(text.contains("ok    kernel              6.1.0\n"), "{text}");
        assert!(
            text.contains("FAIL  BTF                 absent\n"),
            "{text}"
        );
        assert!(text.contains("-> get a kernel with it\n"), "{text}");
        assert!(text.ends_with("see the remedies above"), "{text}");
    }
}
