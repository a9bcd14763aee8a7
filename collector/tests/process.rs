//! The collector as a process: signals and exit codes. Needs no privileges,
//! since it runs even when no hooks can be attached.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// For a start or a stop on a busy host, hooks included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector that listens; dropping it kills it.
struct Collector {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, not influenced by the variables of whoever runs the tests.
fn program(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NETIO_") {
            command.env_remove(name);
        }
    }
    // Beside the host's own collector.
    command.env("NETIO_NO_PIN", "true");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

impl Collector {
    fn start() -> Self {
        Self::start_by(program(env!("CARGO_BIN_EXE_netio-collector")))
    }

    /// As `nohup` does it.
    fn start_ignoring_hangups() -> Self {
        let mut shell = program("/bin/sh");
        shell.args(["-c", r#"trap "" HUP; exec "$0" "$@""#]);
        shell.arg(env!("CARGO_BIN_EXE_netio-collector"));
        Self::start_by(shell)
    }

    fn start_by(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("netio.sock");
        command.arg(format!("--listen=unix://{}", socket.display()));
        let mut collector = Self {
            child: command.spawn().unwrap(),
            socket,
            _folder: folder,
        };
        let begin = Instant::now();
        while UnixStream::connect(&collector.socket).is_err() {
            let ended = collector.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended early: {ended:?}");
            assert!(begin.elapsed() < PATIENCE, "it does not listen");
            sleep(Duration::from_millis(20));
        }
        collector
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn every_signal_to_stop_leaves_nothing_behind() {
    // All are started before the first is stopped: attaching hooks takes time.
    let signals = [Signal::HUP, Signal::QUIT, Signal::TERM, Signal::INT];
    for (signal, mut collector) in signals.map(|signal| (signal, Collector::start())) {
        collector.signal(signal);
        let status = collector.end();
        assert!(status.success(), "{signal:?}: {status}");
        assert!(!collector.socket.exists(), "{signal:?}");
    }
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let mut collector = Collector::start_ignoring_hangups();
    collector.signal(Signal::HUP);
    sleep(Duration::from_millis(500));
    UnixStream::connect(&collector.socket).unwrap();
    collector.signal(Signal::TERM);
    assert!(collector.end().success());
    assert!(!collector.socket.exists());
}

/// With one connection for each place of its limit and a process for each slot, it
/// needs more files than the usual soft limit.
#[test]
fn the_limit_of_open_files_is_raised_to_what_may_be_needed() {
    const CONNECTIONS: u64 = 1_500;
    let mut shell = program("/bin/sh");
    shell.args(["-c", r#"ulimit -Sn 256; exec "$0" "$@""#]);
    shell.arg(env!("CARGO_BIN_EXE_netio-collector"));
    shell.arg(format!("--max-connections={CONNECTIONS}"));
    shell.arg("--max-processes=10");
    let collector = Collector::start_by(shell);
    let limits = fs::read_to_string(format!("/proc/{}/limits", collector.child.id())).unwrap();
    let line = limits.lines().find(|it| it.starts_with("Max open files"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    let [soft, hard] = [words[3], words[4]];
    let enough = soft == "unlimited" || soft.parse::<u64>().unwrap() > CONNECTIONS;
    assert!(enough || soft == hard, "{soft} of {hard}");
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = program(env!("CARGO_BIN_EXE_netio-collector"))
        .arg("doctor")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot write the report"), "{said}");
}

/// Each mistake ends it at once, and what is said can be typed.
#[test]
fn what_would_let_everybody_in_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let init = program(env!("CARGO_BIN_EXE_netio-collector"))
        .args(["certs", "init"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(init.status.success());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key, ca) = (at("server.pem"), at("server-key.pem"), at("ca.pem"));
    let tls = [
        "--listen=tls://127.0.0.1:0",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let with_ca = [&tls[..], &["--tls-client-ca", &ca]].concat();
    for (words, code, said) in [
        (
            &["--listen=tcp://0.0.0.0:7443"][..],
            1,
            "tls://0.0.0.0:7443 with --tls-cert",
        ),
        (&tls[..1], 2, "netio-collector certs init DIR"),
        (&tls[1..], 2, "add --listen tls://HOST:PORT"),
        (&tls[..], 1, "--tls-client-ca"),
        (&with_ca[..], 1, "--grant 'watch cn=netio-client'"),
        (&["--grant=watch cm=x"][..], 2, "'watch cn=netio-client'"),
        (&["--grant=root cn=x"][..], 2, "observe, watch and admin"),
        (&["--grant=watch group=no-such-group"][..], 2, "groupadd"),
        (&["--socket-group=no-such-group"][..], 2, "groupadd"),
    ] {
        let output = program(env!("CARGO_BIN_EXE_netio-collector"))
            .args(words)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
}
