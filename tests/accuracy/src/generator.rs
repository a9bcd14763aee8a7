//! The generator as a child process: takes its program and a pattern, produces
//! its reports. Ended when dropped.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netio_traffic::Pattern;
use netio_traffic::protocol::{EXIT, GO, Ready, Report};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long preparing may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may live on when its output has ended.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How much of the generator's error output is told.
const STDERR_LIMIT: u64 = 2000;

pub(crate) struct Generator {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    pids: Vec<u32>,
}

impl Generator {
    /// Starts the program and waits until it is ready.
    pub(crate) async fn start(program: &Path, pattern: Pattern, scale: u32) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["run", &pattern.name(), "--scale", &scale.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdin = child.stdin.take().context("the generator has no stdin")?;
        let stdout = child.stdout.take().context("the generator has no stdout")?;
        let mut generator = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            pids: Vec::new(),
        };
        let ready: Ready = match timeout(START_LIMIT, generator.line()).await {
            Ok(ready) => ready?,
            Err(_) => bail!("the generator was not ready within {START_LIMIT:?}"),
        };
        generator.pids = ready.pids;
        Ok(generator)
    }

    /// The processes to watch.
    pub(crate) fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Has it make its traffic, and waits for the report.
    pub(crate) async fn go(&mut self) -> Result<Report> {
        self.order(GO).await?;
        self.line().await
    }

    /// Tells it to exit, and waits until it has.
    pub(crate) async fn exit(mut self) -> Result<()> {
        self.order(EXIT).await?;
        self.ended().await
    }

    /// Waits until it has exited, which it does unasked.
    pub(crate) async fn ended(mut self) -> Result<()> {
        let status = self.child.wait().await.context("wait for the generator")?;
        if !status.success() {
            bail!("the generator failed ({status}): {}", self.stderr().await);
        }
        Ok(())
    }

    async fn order(&mut self, order: &str) -> Result<()> {
        self.stdin
            .write_all(format!("{order}\n").as_bytes())
            .await
            .with_context(|| format!("cannot tell the generator to {order}"))
    }

    async fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.stdout.next_line().await;
        let Some(line) = line.context("cannot read from the generator")? else {
            let ended = match timeout(END_LIMIT, self.child.wait()).await {
                Ok(status) => status.context("wait for the generator")?.to_string(),
                Err(_) => "it still runs".to_owned(),
            };
            bail!("the generator broke off ({ended}): {}", self.stderr().await);
        };
        serde_json::from_str(&line)
            .with_context(|| format!("the generator printed a strange line: {line}"))
    }

    /// What it had to say about its failure.
    async fn stderr(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(stderr) = &mut self.child.stderr {
            // What can be read is told; that not all can be is no news.
            let _ = stderr.take(STDERR_LIMIT).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    /// A program that prints `ready`, takes a line, and goes on with `script`.
    fn program(script: &str) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ready = r#"{"ready":true,"pid":7,"pids":[7,8]}"#;
        let text = format!("#!/bin/sh\necho '{ready}'\nread order\n{script}\n");
        let path = file.into_temp_path();
        // Another process writes a new file: what this one has open for writing, a fork of
        // another test's would hold, and such a file cannot be executed.
        std::fs::remove_file(&path).unwrap();
        let written = std::process::Command::new("sh")
            .args(["-c", r#"printf %s "$1" >"$0" && chmod 700 "$0""#])
            .arg(&path)
            .arg(text)
            .status()
            .unwrap();
        assert!(written.success());
        path
    }

    #[tokio::test]
    async fn speaks_the_protocol_to_its_end() {
        let path = program(
            r#"echo '{"pattern":"x","unavailable":"no '$order'"}'; read order; test $order = exit"#,
        );
        let mut generator = Generator::start(&path, Pattern::Peek, 1).await.unwrap();
        assert_eq!(generator.pids(), [7, 8]);
        let report = generator.go().await.unwrap();
        assert_eq!(
            report,
            Report::Unavailable {
                pattern: "x".to_owned(),
                unavailable: "no go".to_owned()
            }
        );
        generator.exit().await.unwrap();
    }

    #[tokio::test]
    async fn tells_why_the_generator_broke_off() {
        let path = program("echo 'no sockets' >&2; exit 1");
        let mut generator = Generator::start(&path, Pattern::Peek, 1).await.unwrap();
        let error = generator.go().await.unwrap_err().to_string();
        assert!(error.contains("no sockets"), "{error}");
        assert!(error.contains("exit status: 1"), "{error}");
    }

    #[tokio::test]
    async fn a_bad_exit_code_is_an_error() {
        let path = program("exit 3");
        let mut generator = Generator::start(&path, Pattern::Peek, 1).await.unwrap();
        generator.order(GO).await.unwrap();
        let error = generator.ended().await.unwrap_err().to_string();
        assert!(error.contains('3'), "{error}");
    }
}
