//! A process that does as a test says: forks, sends, exits.
//!
//! It takes the path of a Unix socket to be told by and the address of a TCP
//! server to send to, connects to both, and says its pid. Then it reads orders, a
//! line each, and answers each with a line when it is done:
//!
//! - `fork`: the child, a puppet with connections of its own, says its pid there;
//!   this one answers with that pid. `fork PID`: with this pid, which must be free.
//! - `send N`: sends N bytes; answers `ok`.
//! - `exit`: exits at once, without an answer. So does the end of its orders.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result, bail};
use rustix::process::{WaitOptions, wait};

use crate::sys::{self, Birth};

/// Lives such a life.
pub fn puppet(control: &Path, sink: SocketAddr) -> Result<()> {
    loop {
        if let Some(()) = live(control, sink)? {
            return Ok(());
        }
        // A child begins anew.
    }
}

/// Nothing in a process that was forked just now.
fn live(control: &Path, sink: SocketAddr) -> Result<Option<()>> {
    let mut answers = UnixStream::connect(control).context("connect to the test")?;
    let mut orders = BufReader::new(answers.try_clone()?);
    let mut sink = TcpStream::connect(sink).context("connect to the server")?;
    writeln!(answers, "{}", process::id())?;
    let mut line = String::new();
    loop {
        line.clear();
        if orders.read_line(&mut line).context("read an order")? == 0 {
            return Ok(Some(()));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["fork"] => match sys::fork(Birth::Child).context("fork")? {
                None => return Ok(None),
                Some(pid) => writeln!(answers, "{pid}")?,
            },
            ["fork", pid] => match sys::fork(Birth::WithPid(pid.parse()?)).context("fork")? {
                None => return Ok(None),
                Some(pid) => writeln!(answers, "{pid}")?,
            },
            ["send", bytes] => {
                sink.write_all(&vec![0x5a; bytes.parse()?])?;
                writeln!(answers, "ok")?;
            }
            ["exit"] => process::exit(0),
            _ => bail!("there is no order {line:?}"),
        }
        reap();
    }
}

/// Lets the pids of children that have exited be used again.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
