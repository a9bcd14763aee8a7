//! Runs one pattern under the line protocol.
//!
//! A pattern is a function of [`Run`]. It prepares, calls [`Run::ready`] (which
//! prints the ready line and returns once "go" has come), makes its traffic
//! through `run.tally`, and returns; this module then compares with TCP_INFO,
//! prints the report and waits for "exit". Whatever happens, the traffic ends
//! within a minute times the scale.
#![forbid(unsafe_code)]

use std::io::{self, BufRead as _, Write as _};
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::audit::Audit;
use crate::pattern::Pattern;
use crate::patterns::{self, inherit::Child};
use crate::protocol::{Bytes, EXIT, GO, Ready, Report, Truth};
use crate::sys;
use crate::tally::Tally;

/// How long the traffic of a pattern may take at scale 1.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A pattern cannot be made here: not a failure, but not a measurement either.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unavailable(pub(crate) String);

/// What a pattern works with.
pub(crate) struct Run {
    /// Multiplies rounds.
    pub(crate) scale: usize,
    /// This process's bytes before "go": not part of the truth.
    pub(crate) before: Tally,
    /// This process's bytes after "go".
    pub(crate) tally: Tally,
    /// Takes sockets before they are closed.
    pub(crate) audit: Audit,
    /// The forked process, which lives until this one exits.
    pub(crate) child: Option<Child>,
    /// What the report says beside numbers.
    pub(crate) note: Option<String>,
    ended: Bytes,
    pattern: Pattern,
    pids: Vec<u32>,
    watchdog: Option<Watchdog>,
}

/// Ends the process when the traffic takes too long, unless it is dropped.
enum Watchdog {
    /// By a thread, which can say so.
    Thread { _armed: SyncSender<()> },
    /// By a signal: a process with two threads must not fork.
    Alarm,
}

/// Runs `pattern` and speaks the protocol on stdin and stdout.
pub fn run(pattern: Pattern, scale: u32) -> Result<()> {
    let mut run = Run {
        scale: scale as usize,
        before: Tally::default(),
        tally: Tally::default(),
        audit: Audit::default(),
        child: None,
        note: None,
        ended: Bytes::default(),
        pattern,
        pids: Vec::new(),
        watchdog: None,
    };
    let report = match patterns::make(pattern, &mut run) {
        Ok(()) => run.report()?,
        Err(error) => {
            let Unavailable(unavailable) = error.downcast::<Unavailable>()?;
            if run.pids.is_empty() {
                run.ready(&[process::id()])?;
            }
            Report::Unavailable {
                pattern: pattern.name(),
                unavailable,
            }
        }
    };
    run.watchdog = None;
    print_line(&report)?;
    let command = read_line()?;
    if !command.is_empty() && command != EXIT {
        bail!("expected \"{EXIT}\" or the end of stdin, not {command:?}");
    }
    Ok(())
}

impl Run {
    /// Says that the preparation is done and returns once "go" has come.
    pub(crate) fn ready(&mut self, pids: &[u32]) -> Result<()> {
        self.pids = pids.to_vec();
        print_line(&Ready {
            ready: true,
            pid: process::id(),
            pids: self.pids.clone(),
        })?;
        let command = read_line()?;
        if command != GO {
            bail!("expected \"{GO}\" on stdin, not {command:?}");
        }
        let limit = TIME_LIMIT * self.scale as u32;
        self.watchdog = Some(if self.pattern.forks() {
            Watchdog::alarm(limit)
        } else {
            Watchdog::thread(limit)
        });
        Ok(())
    }

    /// [`Run::ready`] for the usual case: this process alone is to be watched.
    pub(crate) fn ready_alone(&mut self) -> Result<()> {
        self.ready(&[process::id()])
    }

    /// Adds what the watched process reported, which is not this one and has ended.
    pub(crate) fn add_ended(&mut self, bytes: Bytes) {
        self.ended = bytes;
        self.audit.verified(bytes);
    }

    /// Prints the report with `last` added: for a process that exits right after
    /// its last calls and cannot report behind them.
    pub(crate) fn report_ahead(&self, last: Bytes) -> Result<()> {
        self.tally.add(last);
        print_line(&self.report()?)
    }

    fn report(&self) -> Result<Report> {
        let own = self.tally.bytes();
        let before = self.before.bytes();
        let child = match &self.child {
            Some(child) => child.report()?,
            None => self.ended,
        };
        let all = Bytes {
            sent: before.sent + own.sent + child.sent,
            received: before.received + own.received + child.received,
        };
        let tcp_info = self.audit.compare(all)?.map(|info| Bytes {
            sent: info.sent - before.sent,
            received: info.received - before.received,
        });
        let truth = self.pids.iter().map(|&pid| Truth {
            pid,
            bytes: if pid == process::id() { own } else { child },
        });
        Ok(Report::Truth {
            pattern: self.pattern.name(),
            truth: truth.collect(),
            tcp_info,
            note: self.note.clone(),
        })
    }
}

impl Watchdog {
    fn thread(limit: Duration) -> Self {
        let (disarm, armed) = mpsc::sync_channel::<()>(0);
        thread::spawn(move || {
            if armed.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("netio-traffic: the traffic did not end within {limit:?}");
                process::exit(2);
            }
        });
        Self::Thread { _armed: disarm }
    }

    fn alarm(limit: Duration) -> Self {
        sys::alarm(limit.as_secs() as u32);
        Self::Alarm
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if matches!(self, Self::Alarm) {
            sys::alarm(0);
        }
    }
}

fn print_line(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value).context("write to stdout")?;
    writeln!(out).context("write to stdout")?;
    out.flush().context("write to stdout")
}

/// The next line of stdin without its end; empty at the end of stdin.
fn read_line() -> Result<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("read stdin")?;
    Ok(line.trim_end().to_owned())
}
