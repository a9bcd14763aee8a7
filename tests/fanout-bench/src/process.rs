//! What a process has cost so far, and what this one may open.
//!
//! Reads /proc; a figure is of the whole process at the time of the call.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use rustix::{
    param::page_size,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// CPU time of the process's threads. The scheduler's own figure, since that of
/// /proc/PID/stat counts in steps of 10 ms; threads that have ended are not in
/// it, so a process that ends threads shows too little.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let file = thread?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        if let Ok(line) = fs::read_to_string(&file) {
            let nanoseconds = line.split_whitespace().next();
            sum += nanoseconds
                .and_then(|word| word.parse::<u64>().ok())
                .with_context(|| format!("{} says {line:?}", file.display()))?;
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// Resident memory in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/statm");
    let line = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let pages: u64 = line
        .split_whitespace()
        .nth(1)
        .with_context(|| format!("{file} says {line:?}"))?
        .parse()?;
    Ok(pages * page_size() as u64)
}

/// Every connection takes a descriptor: as many as the hard limit allows.
pub(crate) fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_cost_something() {
        let own = std::process::id();
        assert!(cpu_time(own).unwrap() > Duration::ZERO);
        assert!(resident(own).unwrap() > 100_000);
    }
}
