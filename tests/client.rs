//! The terminal client as a user runs it: with a collector inside, and with one
//! outside.

mod support;

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use support::{
    Collector, PATIENCE, Result, binary, connection, copy_program, lacks_kernel, program,
    servers::free_address, signal, skip, transfer, wait, without_netio_variables,
};

fn client(arguments: &[&str]) -> Command {
    let mut command = program("netio-client");
    command.args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A client that shows lines until something ends it.
fn json_watch(pid: &str, endpoint: &str) -> Command {
    client(&[
        "watch",
        "--pid",
        pid,
        "--output",
        "json",
        "--endpoint",
        endpoint,
    ])
}

/// The next line of a client's JSON output.
fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(
        &lines.next().ok_or("the output ended")??,
    )?)
}

fn lines(process: &mut Child) -> Result<std::io::Lines<BufReader<std::process::ChildStdout>>> {
    Ok(BufReader::new(process.stdout.take().ok_or("no output")?).lines())
}

fn stderr(process: &mut Child) -> Result<String> {
    let mut text = String::new();
    process
        .stderr
        .take()
        .ok_or("no errors")?
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The watches that a collector has now.
fn watches(collector: &Collector) -> Result<String> {
    let output = client(&[
        "list",
        "--output",
        "json",
        "--endpoint",
        &collector.endpoint(),
    ])
    .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Tests that watch this process count its traffic exactly, so only one of them
/// at a time has any.
fn alone() -> MutexGuard<'static, ()> {
    static TRAFFIC: Mutex<()> = Mutex::new(());
    TRAFFIC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the client says when it counts by itself.
const BRINGS_ITS_OWN: &str = "counting in this process";

/// What is lacking to see a client that finds no collector, if anything.
fn lacks_silence() -> Option<&'static str> {
    let path = netio::DEFAULT_ENDPOINT.trim_start_matches("unix://");
    UnixStream::connect(path)
        .is_ok()
        .then_some("a default socket that nobody listens at")
}

#[test]
fn with_no_collector_anywhere_the_client_brings_its_own() -> Result {
    if skip(lacks_kernel().or_else(lacks_silence)) {
        return Ok(());
    }
    let _alone = alone();
    let mut link = connection()?;
    let pid = std::process::id().to_string();
    let mut process =
        client(&["watch", "--pid", &pid, "--output", "json", "--count", "4"]).spawn()?;
    let mut lines = lines(&mut process)?;
    let first = next(&mut lines)?;
    assert_eq!(first["pid"], std::process::id());
    assert_eq!(first["state"], "running");
    assert_eq!(first["sent_bytes_total"], 0);
    transfer(&mut link, 54_321)?;
    let mut last = first.clone();
    for number in 1..4 {
        let sample = next(&mut lines)?;
        let sequence = first["sequence"].as_u64().ok_or("no sequence")? + number;
        assert_eq!(sample["sequence"], sequence);
        let interval = sample["interval_s"].as_f64().ok_or("no interval")?;
        assert!((0.5..5.0).contains(&interval), "{interval} s");
        last = sample;
    }
    assert_eq!(last["sent_bytes_total"], 54_321);
    assert_eq!(last["received_bytes_total"], 54_321);
    for key in [
        "time",
        "skipped_ticks",
        "watch_id",
        "name",
        "sent_calls",
        "received_calls",
    ] {
        assert!(!last[key].is_null(), "{key} is missing in {last}");
    }
    assert!(lines.next().is_none(), "more than --count ticks");
    assert!(wait(&mut process, PATIENCE)?.success());
    let said = stderr(&mut process)?;
    assert!(said.contains(BRINGS_ITS_OWN), "{said}");
    Ok(())
}

#[test]
fn without_privileges_it_says_so_once_and_what_to_do() -> Result {
    // Root, to become somebody who is not.
    if skip(lacks_kernel().or_else(lacks_silence)) {
        return Ok(());
    }
    // Where the tests are built others may not look.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let copy = directory.path().join("netio-client");
    copy_program(&binary("netio-client"), &copy)?;
    let pid = std::process::id().to_string();
    let output = without_netio_variables(&mut Command::new(&copy))
        .args(["watch", "--pid", &pid])
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    let of_client = said.lines().filter(|line| line.contains("netio-client: "));
    let of_client: Vec<&str> = of_client.collect();
    assert_eq!(of_client.len(), 2, "{said}");
    assert!(of_client[0].contains(BRINGS_ITS_OWN), "{said}");
    assert!(of_client[1].contains("PROBES_NOT_ATTACHED"), "{said}");
    assert_eq!(said.matches("sudo ").count(), 1, "{said}");
    for level in ["ERROR", "WARN"] {
        assert!(!said.contains(level), "it is told twice: {said}");
    }
    Ok(())
}

#[test]
fn a_collector_named_by_the_environment_is_used() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    counts_through(&collector, &collector.endpoint())
}

#[test]
fn a_collector_on_tcp_is_used() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let free = free_address()?;
    let endpoint = format!("tcp://{free}");
    let collector = Collector::start(&["--interval", "100ms", "--listen", &endpoint])?;
    let start = Instant::now();
    while TcpStream::connect(free).is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody listens at {free}");
        std::thread::sleep(Duration::from_millis(20));
    }
    counts_through(&collector, &endpoint)
}

/// Watches through the endpoint that the environment names: the collector has
/// the watch, the bytes are right, and nothing else is said.
fn counts_through(collector: &Collector, endpoint: &str) -> Result {
    let _alone = alone();
    let mut link = connection()?;
    let pid = std::process::id().to_string();
    let mut command = client(&["watch", "--pid", &pid, "--output", "json", "--count", "20"]);
    let mut process = command.env("NETIO_ENDPOINT", endpoint).spawn()?;
    let mut lines = lines(&mut process)?;
    let first = next(&mut lines)?;
    let watch_id = first["watch_id"].as_str().ok_or("no watch id")?;
    assert!(watches(collector)?.contains(watch_id));
    transfer(&mut link, 12_345)?;
    let mut last = first.clone();
    for line in lines {
        last = serde_json::from_str(&line?)?;
    }
    assert_eq!(first["sent_bytes_total"], 0);
    assert_eq!(last["sent_bytes_total"], 12_345);
    assert_eq!(last["received_bytes_total"], 12_345);
    assert!(wait(&mut process, PATIENCE)?.success());
    assert_eq!(stderr(&mut process)?, "", "it has nothing to say");
    assert!(!watches(collector)?.contains(watch_id), "left behind");
    Ok(())
}

#[test]
fn a_client_that_was_stopped_for_a_while_goes_on_with_right_totals() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let _alone = alone();
    let mut link = connection()?;
    let pid = std::process::id().to_string();
    let mut process = client(&["watch", "--pid", &pid, "--output", "json", "--count", "40"])
        .env("NETIO_ENDPOINT", collector.endpoint())
        .spawn()?;
    let mut lines = lines(&mut process)?;
    let first = next(&mut lines)?;
    signal(&process, Signal::STOP)?;
    transfer(&mut link, 54_321)?;
    std::thread::sleep(Duration::from_secs(2));
    signal(&process, Signal::CONT)?;
    let (mut last, mut sum) = (first.clone(), 0);
    for line in lines {
        let sample: serde_json::Value = serde_json::from_str(&line?)?;
        let number =
            |sample: &serde_json::Value, key: &str| sample[key].as_u64().ok_or("no number");
        assert_eq!(
            number(&sample, "sequence")?,
            number(&last, "sequence")? + 1 + number(&sample, "skipped_ticks")?
        );
        sum += number(&sample, "sent_bytes")?;
        let grown = number(&sample, "sent_bytes_total")? - number(&first, "sent_bytes_total")?;
        // What skipped ticks held is in the totals alone.
        assert!(sum <= grown, "{sample}");
        last = sample;
    }
    assert_eq!(last["sent_bytes_total"], 54_321);
    assert!(wait(&mut process, PATIENCE)?.success());
    Ok(())
}

#[test]
fn an_interrupt_ends_it_cleanly_and_its_watch_with_it() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let pid = std::process::id().to_string();
    let endpoint = collector.endpoint();
    let mut process = json_watch(&pid, &endpoint).spawn()?;
    let mut lines = lines(&mut process)?;
    next(&mut lines)?;
    assert!(watches(&collector)?.contains("watch_id"));
    signal(&process, Signal::INT)?;
    assert!(wait(&mut process, PATIENCE)?.success());
    assert!(
        !watches(&collector)?.contains("watch_id"),
        "the watch was left behind"
    );
    Ok(())
}

#[test]
fn a_closed_pipe_ends_it_cleanly_and_its_watch_with_it() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let pid = std::process::id().to_string();
    let endpoint = collector.endpoint();
    let mut process = client(&["watch", "--pid", &pid, "--endpoint", &endpoint]).spawn()?;
    let mut lines = lines(&mut process)?;
    lines.next().ok_or("no output")??;
    drop(lines);
    assert!(
        wait(&mut process, PATIENCE)?.success(),
        "{}",
        stderr(&mut process)?
    );
    assert!(
        !watches(&collector)?.contains("watch_id"),
        "the watch was left behind"
    );
    Ok(())
}

#[test]
fn a_process_that_exits_is_told_with_its_last_bytes_and_ends_the_watch() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "200ms"])?;
    let _alone = alone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // bash itself connects, waits to be watched, and sends 7 bytes as it goes.
    let mut sender = Command::new("bash")
        .args([
            "-c",
            &format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read; printf goodbye >&3"),
        ])
        .stdin(Stdio::piped())
        .spawn()?;
    let (mut peer, _) = listener.accept()?;
    let pid = sender.id().to_string();
    let endpoint = collector.endpoint();
    let mut process = json_watch(&pid, &endpoint).spawn()?;
    let mut lines = lines(&mut process)?;
    next(&mut lines)?;
    drop(sender.stdin.take());
    let mut last = serde_json::Value::Null;
    for line in lines {
        last = serde_json::from_str(&line?)?;
    }
    sender.wait()?;
    assert_eq!(last["state"], "exited");
    assert_eq!(last["sent_bytes_total"], 7);
    assert!(wait(&mut process, PATIENCE)?.success());
    let mut heard = String::new();
    peer.read_to_string(&mut heard)?;
    assert_eq!(heard, "goodbye");
    Ok(())
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&[])?;
    let endpoint = collector.endpoint();
    let absent = "4194303"; // beyond what any process here has
    let output = client(&["watch", "--pid", absent, "--endpoint", &endpoint]).output()?;
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr)?;
    assert!(
        text.contains("PROCESS_NOT_FOUND") && text.contains(absent),
        "{text}"
    );

    let output = client(&["list", "--endpoint", "unix:///nowhere/at/all.sock"]).output()?;
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr)?;
    assert!(text.contains("/nowhere/at/all.sock"), "{text}");
    Ok(())
}

#[test]
fn info_and_doctor_tell_the_hooks() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&[])?;
    let output = client(&["info", "--endpoint", &collector.endpoint()]).output()?;
    let text = String::from_utf8(output.stdout)?;
    for word in ["tracepoint", "sock_send_length", "not-tcp"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    let output = client(&["doctor"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{text}");
    for word in [
        "kernel",
        "BTF",
        "mode tracepoint",
        "mode fentry",
        "mode kprobe",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_collector_ends_open_streams_and_exits_in_time() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let mut collector = Collector::start(&["--interval", "100ms"])?;
    let pid = std::process::id().to_string();
    let endpoint = collector.endpoint();
    let mut process = json_watch(&pid, &endpoint).spawn()?;
    let mut lines = lines(&mut process)?;
    next(&mut lines)?;
    let start = Instant::now();
    assert!(collector.terminate()?.success());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(!collector.socket.exists(), "the socket was left behind");
    // The client waits for another collector, and leaves at once when asked to.
    std::thread::sleep(Duration::from_secs(1));
    assert!(process.try_wait()?.is_none(), "it waits");
    signal(&process, Signal::INT)?;
    let start = Instant::now();
    assert!(wait(&mut process, PATIENCE)?.success());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(stderr(&mut process)?.contains("SHUTTING_DOWN"));
    Ok(())
}
