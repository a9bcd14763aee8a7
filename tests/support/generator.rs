//! netio-traffic as a process of the test's: it takes a pattern, and produces the
//! truth that the generator reports. Ended when dropped.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use netio_traffic::{
    Pattern,
    protocol::{EXIT, GO, Ready, Report, Truth},
};

use super::{PATIENCE, Result, binary, wait};

pub struct Generator {
    process: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    pids: Vec<u32>,
}

impl Generator {
    /// Starts it and waits until it is prepared.
    pub fn start(pattern: Pattern) -> Result<Self> {
        let mut process = Command::new(binary("netio-traffic"))
            .args(["run", &pattern.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no input")?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut generator = Self {
            process,
            orders,
            lines: BufReader::new(output).lines(),
            pids: Vec::new(),
        };
        let ready: Ready = serde_json::from_str(&generator.line()?)?;
        generator.pids = ready.pids;
        Ok(generator)
    }

    /// The processes to watch.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Has it make its traffic; what it says of each process to watch.
    pub fn go(&mut self) -> Result<Vec<Truth>> {
        writeln!(self.orders, "{GO}")?;
        match serde_json::from_str(&self.line()?)? {
            Report::Truth { truth, .. } => Ok(truth),
            Report::Unavailable { unavailable, .. } => Err(unavailable.into()),
        }
    }

    /// Has it exit.
    pub fn exit(mut self) -> Result {
        writeln!(self.orders, "{EXIT}")?;
        let status = wait(&mut self.process, PATIENCE)?;
        assert!(status.success(), "the generator ended with {status}");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().ok_or("the generator broke off")??)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
