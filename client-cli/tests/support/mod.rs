//! The program and other processes, started and looked at by tests.
#![allow(dead_code, reason = "no test needs all of it")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) mod scripted;

pub(crate) fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

pub(crate) fn client(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netio-client"));
    command
        .args(line.split_whitespace())
        .env_remove("NETIO_ENDPOINT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A process that does nothing until it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn idler() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// The exit code, of a process that ends within a few seconds.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut status = None;
        until("the process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{what}: it never did"
        );
        sleep(Duration::from_millis(10));
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
