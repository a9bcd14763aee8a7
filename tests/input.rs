//! Names and paths that a process chose to steer a terminal, to forge lines or to be
//! no text at all: what the client shows and what the collector logs holds nothing
//! of that, and JSON stays JSON.

mod support;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use netio::{
    printable,
    v1::{Target, UnwatchRequest, WatchRequest, unwatch_request::Selector},
};
use serde_json::Value;
use support::{
    Collector, PATIENCE, Result, binary, copy_program, lacks_kernel, output, program, skip,
};
use tempfile::TempDir;
use tonic_types::StatusExt as _;

/// What the shell's printf makes of it: a title for the terminal, a newline, a byte
/// that is no UTF-8, a C1 control and an override of the direction.
const COMM: &str = r"\033]0;\nx\377\302\233\342\200\256y";
/// How it is shown.
const SHOWN: &str = "\u{fffd}]0;\u{fffd}x\u{fffd}\u{fffd}\u{fffd}y";

/// A process with a hostile name, whose program lies at a hostile path and is called
/// as a database's is.
struct Hostile {
    process: Child,
    program: PathBuf,
    _folder: TempDir,
}

impl Hostile {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("a\u{202e}b").join("redis-server");
        fs::create_dir(program.parent().ok_or("no parent")?)?;
        copy_program(Path::new("/bin/sh"), &program)?;
        let rename = format!("printf '{COMM}' >/proc/$$/comm; echo; read line");
        let process = Command::new(&program)
            .args(["-c", &rename])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let hostile = Self {
            process,
            program,
            _folder: folder,
        };
        let comm = format!("/proc/{}/comm", hostile.process.id());
        let start = Instant::now();
        while !fs::read(&comm)?.starts_with(b"\x1b]0;\nx\xff") {
            assert!(start.elapsed() < PATIENCE, "it has no name");
            sleep(Duration::from_millis(10));
        }
        Ok(hostile)
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }

    fn path(&self) -> Result<&str> {
        Ok(self.program.to_str().ok_or("no text")?)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A collector that logs much, to a file.
fn logging(folder: &Path, format: &str) -> Result<(Collector, PathBuf)> {
    let log = folder.join(format!("{format}.log"));
    let mut command = Command::new(binary("netio-collector"));
    command
        .args(["--log", "info,netio_collector=debug"])
        .args(["--log-format", format, "--interval", "200ms"])
        .stderr(File::create(&log)?);
    let collector = Collector::start_command(command, tempfile::tempdir()?)?;
    Ok((collector, log))
}

fn client(arguments: &[&str], endpoint: Option<&str>) -> Result<Output> {
    let mut command = program("netio-client");
    command.args(arguments);
    command.args(endpoint.into_iter().flat_map(|it| ["--endpoint", it]));
    Ok(command.stdin(Stdio::null()).output()?)
}

/// Asserts that text can be shown: one newline at the end of each line, and else
/// nothing that steers.
fn assert_fit(what: &str, text: &[u8]) -> Result<String> {
    let text = String::from_utf8(text.to_vec())?;
    let bad = text
        .chars()
        .find(|c| *c != '\n' && !printable::may_be_shown(*c));
    assert_eq!(bad, None, "{what}: {text:?}");
    Ok(text)
}

fn objects(text: &str) -> Result<Vec<Value>> {
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?)
}

#[tokio::test]
async fn fault_21_hostile_names_reach_neither_terminal_nor_log_nor_json() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let hostile = Hostile::start()?;
    for format in ["pretty", "json"] {
        let (mut collector, log) = logging(folder.path(), format)?;
        shown(&hostile, &collector)?;
        refused(&collector).await?;
        assert!(collector.terminate()?.success());
        let text = assert_fit("the log", &fs::read(&log)?)?;
        assert!(text.contains("watch made"), "{text}");
        assert!(text.contains("unwatch refused"), "{text}");
        if format == "json" {
            for record in objects(&text)? {
                assert!(record["fields"]["message"].is_string(), "{record}");
            }
        }
    }
    Ok(())
}

/// Everything that shows the process.
fn shown(hostile: &Hostile, collector: &Collector) -> Result {
    let endpoint = collector.endpoint();
    let pid = hostile.pid();
    let standing = ["watch", "--name", hostile.path()?, "--detach"];
    let by_pid = ["watch", "--pid", &pid, "--count", "2"];
    let by_name = [
        "watch",
        "--name",
        hostile.path()?,
        "--count",
        "2",
        "--per-process",
    ];
    for arguments in [&standing[..], &by_pid, &by_name, &["list"], &["discover"]] {
        for format in ["table", "json"] {
            let arguments = [arguments, &["--output", format]].concat();
            let output = client(&arguments, Some(&endpoint))?;
            let what = format!("{arguments:?}");
            let notes = assert_fit(&what, &output.stderr)?;
            assert!(output.status.success(), "{what}: {notes}");
            let text = assert_fit(&what, &output.stdout)?;
            assert!(text.contains(SHOWN), "{what}: {text}");
            if format == "json" {
                assert_tells(&objects(&text)?, hostile.process.id(), &what);
            }
        }
    }
    Ok(())
}

/// Asserts that an object is, or holds, the process.
fn assert_tells(objects: &[Value], pid: u32, what: &str) {
    let processes = objects.iter().flat_map(|object| {
        let listed = object["processes"].as_array().into_iter().flatten();
        listed.chain([object])
    });
    let mut named = processes.filter(|it| it["pid"] == pid);
    let is_shown = |it: &Value| it["name"] == SHOWN;
    assert!(named.any(is_shown), "{what}: {objects:?}");
}

/// What callers wrote and a refusal repeats.
async fn refused(collector: &Collector) -> Result {
    const HOSTILE: &str = "w\u{1b}[2J\n\u{9b}\u{202e}\r";
    let mut client = collector.connect().await?;
    let unwatch = UnwatchRequest {
        selector: Some(Selector::WatchId(HOSTILE.to_owned())),
    };
    let unwatch = client.unwatch(unwatch).await.err();
    let watch = WatchRequest::new(Target::name(HOSTILE));
    let watch = client.watch(watch).await.err();
    for (status, reason) in [(unwatch, "WATCH_NOT_FOUND"), (watch, "NAME_INVALID")] {
        let status = status.ok_or("it was not refused")?;
        assert_fit("a status", status.message().as_bytes())?;
        let info = status.get_details_error_info().ok_or("no reason")?;
        assert_eq!(info.reason, reason);
        for value in info.metadata.values() {
            assert_fit("a status", value.as_bytes())?;
        }
    }

    let endpoint = collector.endpoint();
    for arguments in [
        &["watch", "--unit", HOSTILE][..],
        &["watch", "--pid", HOSTILE],
        &["unwatch", HOSTILE],
        &[HOSTILE],
    ] {
        let endpoint = (arguments.len() > 1).then_some(endpoint.as_str());
        let output = self::client(arguments, endpoint)?;
        assert!(!output.status.success());
        let text = assert_fit(&format!("{arguments:?}"), &output.stderr)?;
        assert!(text.contains("[2J"), "it repeats what is wrong: {text}");
    }
    Ok(())
}

#[test]
fn fault_21_hostile_settings_are_quoted_harmlessly() -> Result {
    let hostile = "\u{1b}[2J\u{9b}\u{202e}";
    let file = tempfile::NamedTempFile::new()?;
    // No TOML, so that the error shows the line; and TOML with a wrong value.
    for text in [
        format!("log = {hostile}\n"),
        "lease = '\u{202e}'\n".to_owned(),
    ] {
        fs::write(file.path(), &text)?;
        let output = output(program("netio-collector").arg("--config").arg(file.path()))?;
        assert_eq!(output.status.code(), Some(2));
        let told = assert_fit(&text, &output.stderr)?;
        assert!(told.contains(&file.path().display().to_string()), "{told}");
    }
    for (name, of) in [
        ("NETIO_CONFIG", "netio-collector"),
        ("NETIO_LEASE", "netio-collector"),
        ("NETIO_ENDPOINT", "netio-client"),
    ] {
        for value in [
            format!("/nowhere/{hostile}"),
            format!("unix:///nowhere/{hostile}\n"),
        ] {
            let mut command = program(of);
            command.env(name, &value);
            command.args((of == "netio-client").then_some("list"));
            let output = output(&mut command)?;
            assert!(!output.status.success(), "{name}");
            let told = assert_fit(name, &output.stderr)?;
            assert!(told.contains("/nowhere/"), "{told}");
        }
    }
    Ok(())
}
