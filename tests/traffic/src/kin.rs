//! Forked processes that make traffic of their own and tell the truth about it.
//!
//! [`fork`] makes one and gives it a life, a function, at whose end it exits. A
//! [`Member`] is its book-keeping: before it exits it holds its sum of return
//! values against TCP_INFO and writes it to the [`Reports`], a pipe that all of a
//! family share. Whoever collects them knows how many must come; a missing one is
//! an error, so that a process that failed cannot pass for one that sent little.
#![forbid(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::process;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::audit::Audit;
use crate::driver::TIME_LIMIT;
use crate::link::Link;
use crate::protocol::Bytes;
use crate::sys::{self, Birth};
use crate::tally::Tally;

/// One process's account.
#[derive(Default)]
pub(crate) struct Member {
    /// Its bytes before "go": not part of the truth.
    pub(crate) before: Tally,
    /// Its bytes after "go".
    pub(crate) tally: Tally,
    /// Takes its sockets.
    pub(crate) audit: Audit,
}

/// The accounts of a family, on their way to its eldest.
pub(crate) struct Reports {
    reader: PipeReader,
    writer: PipeWriter,
}

/// A beginning that processes wait for together.
pub(crate) struct Start {
    reader: PipeReader,
    /// Held by whoever gives the start; the end of the stream is the start.
    writer: Option<PipeWriter>,
}

/// Forks a process that lives `life` and exits, with a failure if that fails. It
/// ends within the time that the pattern has.
pub(crate) fn fork(birth: Birth, life: impl FnOnce() -> Result<()>) -> Result<u32> {
    if let Some(pid) = sys::fork(birth).with_context(|| format!("fork: {birth:?}"))? {
        return Ok(pid);
    }
    sys::alarm(TIME_LIMIT.as_secs() as u32);
    let done = life();
    if let Err(error) = &done {
        eprintln!("netio-traffic: forked process {}: {error:#}", process::id());
    }
    process::exit(i32::from(done.is_err()))
}

/// Waits for one child, any if none is named, which must have ended well.
pub(crate) fn wait_for(pid: Option<u32>) -> Result<()> {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let ended = waitpid(pid, WaitOptions::empty()).context("wait for a child")?;
    let (_, status) = ended.context("there is no such child")?;
    ensure!(
        status.exit_status() == Some(0),
        "a child ended with {status:?}"
    );
    Ok(())
}

/// Waits for every child, adopted ones too; each must have ended well.
pub(crate) fn wait_for_all() -> Result<()> {
    loop {
        match wait_for(None) {
            Err(error) if error.root_cause().downcast_ref() == Some(&Errno::CHILD) => return Ok(()),
            ended => ended?,
        }
    }
}

impl Member {
    /// Sends in both directions over `link`.
    pub(crate) fn exchange(&self, link: &Link) -> Result<()> {
        crate::patterns::exchange(&self.tally, link, 1)
    }

    /// Adds a descendant that is watched with it, whose own audit agrees with this.
    pub(crate) fn add(&self, bytes: Bytes) {
        self.tally.add(bytes);
        self.audit.verified(bytes);
    }

    /// Reports, provided that TCP_INFO agrees: the member's last act.
    pub(crate) fn report(&self, reports: &Reports) -> Result<()> {
        let (before, bytes) = (self.before.bytes(), self.tally.bytes());
        let all = Bytes {
            sent: before.sent + bytes.sent,
            received: before.received + bytes.received,
        };
        let audited = self.audit.compare(all)?;
        ensure!(audited.is_some(), "no socket was audited");
        let report = [bytes.sent.to_ne_bytes(), bytes.received.to_ne_bytes()];
        // So short that it is written whole, whoever else writes.
        (&reports.writer)
            .write_all(report.as_flattened())
            .context("report")
    }
}

impl Reports {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// The sum of `count` reports; waits until everybody who might write one has
    /// exited.
    pub(crate) fn collect(self, count: usize) -> Result<Bytes> {
        let Self { mut reader, writer } = self;
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).context("read reports")?;
        let (reports, rest) = all.as_chunks::<16>();
        ensure!(
            reports.len() == count && rest.is_empty(),
            "{} processes reported instead of {count}",
            reports.len()
        );
        let mut sum = Bytes::default();
        for report in reports {
            let (sent, received) = report.split_at(8);
            sum.sent += u64::from_ne_bytes(sent.try_into()?);
            sum.received += u64::from_ne_bytes(received.try_into()?);
        }
        Ok(sum)
    }
}

impl Start {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self {
            reader,
            writer: Some(writer),
        })
    }

    /// Gives it.
    pub(crate) fn give(&mut self) {
        self.writer = None;
    }

    /// Waits for it, in a process that was forked since [`Start::new`].
    pub(crate) fn wait(&mut self) -> Result<()> {
        // Its own copy would keep the stream open.
        self.writer = None;
        let read = self.reader.read(&mut [0]).context("wait for the start")?;
        ensure!(read == 0, "something else than the start came");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_missing_is_an_error() {
        let member = || {
            let member = Member::default();
            let link = Link::new().unwrap();
            member.exchange(&link).unwrap();
            member.audit.link(&link).unwrap();
            member
        };
        let reports = Reports::new().unwrap();
        for _ in 0..2 {
            member().report(&reports).unwrap();
        }
        let one = member().tally.bytes();
        let sum = reports.collect(2).unwrap();
        assert_eq!((sum.sent, sum.received), (2 * one.sent, 2 * one.received));

        let reports = Reports::new().unwrap();
        member().report(&reports).unwrap();
        assert!(reports.collect(2).is_err());
    }

    #[test]
    fn an_account_that_tcp_info_denies_is_not_reported() {
        let member = Member::default();
        let link = Link::new().unwrap();
        member.exchange(&link).unwrap();
        member.audit.link(&link).unwrap();
        member.tally.add_sent(1);
        assert!(member.report(&Reports::new().unwrap()).is_err());
    }
}
