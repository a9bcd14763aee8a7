//! Where pids mean something else than to the kernel's programs, nothing is
//! counted: it would be another process's traffic.

mod support;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Instant,
};

use netio::v1::{ListWatchesRequest, Target, WatchRequest};
use support::{
    Collector, PATIENCE, Result, binary, connection, lacks_kernel, reason, servers::children,
    settled, skip, subscribe, transfer, watch, without_netio_variables,
};
use tonic::Code;

/// Killed when dropped, and with it what it has forked.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn elsewhere(arguments: &[&str]) -> Result<(bool, String)> {
    let output = without_netio_variables(&mut Command::new("unshare"))
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(binary("netio-client"))
        .args(arguments)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

#[tokio::test]
async fn fault_14_in_another_pid_namespace_nothing_is_watched_and_it_says_why() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let (ended_well, text) = elsewhere(&["watch", "--pid", "1", "--count", "1"])?;
    assert!(!ended_well, "{text}");
    for word in ["PROBES_NOT_ATTACHED", "pid namespace", "--pid=host"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    let (ended_well, text) = elsewhere(&["doctor"])?;
    assert!(!ended_well, "{text}");
    for words in ["FAIL  pid namespace", "--pid=host"] {
        assert!(text.contains(words), "{words} is missing in:\n{text}");
    }

    // A service that was started there says the same to whoever calls it.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(binary("netio-collector"));
    let collector = Collector::start_command(command, tempfile::tempdir()?)?;
    let mut client = collector.connect().await?;
    let refused = client.watch(WatchRequest::new(Target::pid(1))).await;
    let status = refused.as_ref().err().ok_or("it was not refused")?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("--pid=host"), "{status}");
    assert_eq!(reason(refused)?, "PROBES_NOT_ATTACHED");
    Ok(())
}

/// A pid is the host's, whoever names it and wherever it runs; what it is called in its
/// own namespace is told beside it.
#[tokio::test]
async fn fault_14_a_pid_is_the_hosts_whoever_names_it() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&[])?;
    let mut client = collector.connect().await?;
    // One that asks from within a container for "its" pid 1 has the host's.
    let asked = without_netio_variables(&mut Command::new("unshare"))
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(binary("netio-client"))
        .args(["watch", "--detach", "--pid", "1", "--endpoint"])
        .arg(collector.endpoint())
        .output()?;
    assert!(asked.status.success(), "{asked:?}");
    let list = client.list_watches(ListWatchesRequest {}).await?;
    let watches = list.into_inner().watches;
    let process = watches[0].processes.first().ok_or("no process")?;
    assert_eq!((process.pid, process.container_pid), (1, 1));
    let init = fs::read_to_string("/proc/1/comm")?;
    assert_eq!(process.name, init.trim_end());

    // A process within one is watched by the host's pid, and counted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let send = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read; echo -n hello >&3; read");
    let mut container = Killed(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "bash", "-c", &send])
            .stdin(Stdio::piped())
            .spawn()?,
    );
    let (mut from_within, _) = listener.accept()?;
    let pid = children(container.0.id())?.pop().ok_or("no child")?;
    let watch = watch(&mut client, pid).await?;
    let process = watch.processes.first().ok_or("no process")?;
    assert_eq!((process.pid, process.container_pid), (pid, 1));
    let mut ticks = subscribe(&mut client, &watch).await?;
    let mut orders = container.0.stdin.take().ok_or("no input")?;
    std::io::Write::write_all(&mut orders, b"\n")?;
    std::io::Read::read_exact(&mut from_within, &mut [0; 5])?;
    let begin = Instant::now();
    while settled(&mut ticks).await?.sent_bytes_total != 5 {
        assert!(begin.elapsed() < PATIENCE);
    }
    // What this process sends is not its.
    transfer(&mut connection()?, 1_000)?;
    assert_eq!(settled(&mut ticks).await?.sent_bytes_total, 5);
    Ok(())
}
