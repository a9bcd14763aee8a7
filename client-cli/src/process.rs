//! A process as this client shows it: takes the API's message, produces values
//! that are fit for a terminal.

use netio::v1;
use serde::Serialize;

use crate::text;

/// A process. The keys are part of the interface of the commands that list it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Process {
    /// Its id in the collector's pid namespace.
    pub(crate) pid: u32,
    /// When it started, in nanoseconds since boot.
    pub(crate) start_time_ns: u64,
    /// The kernel's name for it.
    pub(crate) name: String,
    /// Its id in its own pid namespace; 0 if unknown.
    pub(crate) container_pid: u32,
    /// Its cgroup; empty in samples.
    pub(crate) cgroup: String,
}

impl From<v1::Process> for Process {
    fn from(process: v1::Process) -> Self {
        Self {
            pid: process.pid,
            start_time_ns: process.start_time_ns,
            name: text::line(&process.name),
            container_pid: process.container_pid,
            cgroup: text::long_line(&process.cgroup),
        }
    }
}

impl Process {
    /// Whether it is this very process, and not one that has its pid by now.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.pid, self.start_time_ns) == (other.pid, other.start_time_ns)
    }
}

/// How many processes, in words.
pub(crate) fn count(processes: u64) -> String {
    match processes {
        0 => "no process".to_owned(),
        1 => "1 process".to_owned(),
        several => format!("{several} processes"),
    }
}

/// Processes that are named where there are many.
const MOST_NAMED: usize = 20;

/// The first of these processes by pid and name, and how many of `count` are
/// not named.
pub(crate) fn names(processes: &[Process], count: u64) -> String {
    let named = processes.iter().take(MOST_NAMED);
    let named: Vec<String> = named.map(|it| format!("{} {}", it.pid, it.name)).collect();
    let mut text = named.join(", ");
    let rest = count.saturating_sub(named.len() as u64);
    if rest > 0 && !named.is_empty() {
        text += &format!(" and {rest} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_arrives_fit_for_a_terminal() {
        let long_path = format!("/{}\u{1b}", "x".repeat(1000));
        let process = Process::from(v1::Process {
            pid: 7,
            start_time_ns: 9,
            name: "mar\u{1b}db".to_owned(),
            container_pid: 1,
            cgroup: long_path.clone(),
        });
        assert_eq!(
            process,
            Process {
                pid: 7,
                start_time_ns: 9,
                name: "mar\u{fffd}db".to_owned(),
                container_pid: 1,
                cgroup: long_path.replace('\u{1b}', "\u{fffd}"),
            }
        );
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let first = Process {
            pid: 7,
            start_time_ns: 1,
            ..Process::default()
        };
        let mut other = Process {
            name: "renamed".to_owned(),
            ..first.clone()
        };
        assert!(first.is(&other));
        other.start_time_ns = 2;
        assert!(!first.is(&other));
    }

    #[test]
    fn counts_in_words() {
        assert_eq!(count(0), "no process");
        assert_eq!(count(1), "1 process");
        assert_eq!(count(2), "2 processes");
    }

    #[test]
    fn the_first_are_named_and_the_rest_counted() {
        let process = |pid| Process {
            pid,
            name: "db".to_owned(),
            ..Process::default()
        };
        assert_eq!(names(&[], 0), "");
        assert_eq!(names(&[process(7)], 1), "7 db");
        let many: Vec<Process> = (100..150).map(process).collect();
        let text = names(&many, 60);
        assert!(text.starts_with("100 db, 101 db, "), "{text}");
        assert!(text.ends_with(", 119 db and 40 more"), "{text}");
    }
}
