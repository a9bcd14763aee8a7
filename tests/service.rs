//! The collector as a service: without root, in the unit that is shipped, told of by
//! notifications, on sockets that were handed over.

mod support;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use netio::v1::{
    GetCollectorInfoRequest, Target, WatchRequest, net_io_service_client::NetIoServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Collector, PATIENCE, Result, binary,
    bpffs::bpffs,
    connection, file, lacks_kernel, next_tick, reason, request,
    servers::free_address,
    service::{UID, lacks, open_folder, unit, unit_capabilities, with_capabilities},
    settled, skip, subscribe, transfer, unwatch, wait, without_netio_variables,
};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// One test at a time: what this process sends is counted.
static ALONE: Mutex<()> = Mutex::const_new(());

fn status_of(pid: u32) -> Result<Vec<String>> {
    // Each thread has capabilities of its own.
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", pid))? {
        all.push(fs::read_to_string(task?.path().join("status"))?);
    }
    Ok(all)
}

/// The bits of a set of capabilities.
fn bits(status: &str, key: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    Ok(u64::from_str_radix(
        line.ok_or("no such line")?.trim_start_matches(':').trim(),
        16,
    )?)
}

const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// No thread has more than is needed, nor ever can.
fn assert_confined(pid: u32, capabilities: u64) -> Result {
    let threads = status_of(pid)?;
    assert!(threads.len() > 2);
    for status in threads {
        assert_eq!(bits(&status, "CapEff")?, capabilities, "{status}");
        assert_eq!(bits(&status, "CapPrm")?, capabilities, "{status}");
        assert_eq!(bits(&status, "CapInh")?, 0, "{status}");
        assert_eq!(bits(&status, "CapAmb")?, 0, "{status}");
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
    }
    Ok(())
}

/// Everything that a collector is for: watches by pid, port and name, children, and
/// to attach again, on processes of another user.
async fn assert_it_counts(socket: &Path) -> Result {
    let endpoint = format!("unix://{}", socket.display());
    let mut client = NetIoServiceClient::connect(endpoint).await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let executable = std::env::current_exe()?.display().to_string();
    for target in [
        Target::pid(std::process::id()),
        Target::port(port),
        Target::name(executable),
    ] {
        let what = format!("{target:?}");
        let target = target.following_children(true);
        let watch = request(&mut client, WatchRequest::new(target)).await?;
        let mut ticks = subscribe(&mut client, &watch).await?;
        transfer(&mut connection()?, 4711)?;
        let child = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf hello >&3");
        let mut child = Command::new("bash").args(["-c", &child]).spawn()?;
        let (mut from_child, _) = listener.accept()?;
        assert_eq!(io::copy(&mut from_child, &mut io::sink())?, 5);
        wait(&mut child, PATIENCE)?;
        let sample = settled(&mut ticks).await?;
        // The stream itself goes over a Unix socket, and is not counted.
        let counted = (sample.sent_bytes_total, sample.received_bytes_total);
        assert_eq!(counted, (4716, 4716), "{what}");
        unwatch(&mut client, &watch).await?;
    }
    Ok(())
}

#[tokio::test]
async fn fault_19_root_is_given_up_and_everything_works_without() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--detach-when-idle", "1s"])?;
    // It may be connected to before it has dropped anything.
    assert_it_counts(&collector.socket).await?;
    let needed = BPF | PERFMON | SYS_PTRACE | DAC_READ_SEARCH;
    assert_confined(collector.pid(), needed)?;
    for status in status_of(collector.pid())? {
        assert_eq!(bits(&status, "CapBnd")?, 0, "{status}");
    }
    // Long enough for the hooks to be let go of.
    sleep(Duration::from_secs(3));
    assert_it_counts(&collector.socket).await
}

#[tokio::test]
async fn privileges_are_kept_where_that_is_wished() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--keep-privileges", "--no-seccomp"])?;
    assert_it_counts(&collector.socket).await?;
    let own = fs::read_to_string("/proc/self/status")?;
    for status in status_of(collector.pid())? {
        assert_eq!(bits(&status, "CapEff")?, bits(&own, "CapEff")?);
        assert!(status.contains("Seccomp:\t0\n"), "{status}");
    }
    Ok(())
}

#[tokio::test]
async fn fault_19_another_user_with_the_units_capabilities_counts_everything() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel().or(lacks("setpriv"))) {
        return Ok(());
    }
    let capabilities = unit_capabilities()?;
    assert_eq!(
        unit("CapabilityBoundingSet")?.concat(),
        capabilities.join(" ")
    );
    let folder = open_folder()?;
    let collector = Collector::start_command(with_capabilities(&capabilities), folder)?;
    assert_it_counts(&collector.socket).await?;
    let status = status_of(collector.pid())?.remove(0);
    assert!(status.contains(&format!("Uid:\t{UID}")), "{status}");
    let needed = BPF | PERFMON | SYS_PTRACE | DAC_READ_SEARCH;
    assert_confined(collector.pid(), needed)
}

/// What is told of each that is missing.
const COSTS: [(&str, &str); 4] = [
    ("CAP_BPF", "nothing can be counted"),
    ("CAP_PERFMON", "nothing can be counted"),
    ("CAP_SYS_PTRACE", "no process is found by port"),
    (
        "CAP_DAC_READ_SEARCH",
        "no other user's process is found by port",
    ),
];

#[test]
fn fault_19_what_is_missing_is_told_at_the_start_and_by_doctor() -> Result {
    if skip(lacks_kernel().or(lacks("setpriv"))) {
        return Ok(());
    }
    let doctor = with_capabilities(&[]).arg("doctor").output()?;
    let told = String::from_utf8(doctor.stdout)?;
    assert!(!doctor.status.success());
    let folder = open_folder()?;
    let mut collector = Collector::start_logged(with_capabilities(&[]), folder)?;
    collector.terminate()?;
    let log = collector.log()?;
    for (capability, cost) in COSTS {
        for told in [&log, &told] {
            let mut lines = told.lines().filter(|line| line.contains(capability));
            let is_told = lines.any(|line| line.contains("missing") && line.contains(cost));
            assert!(is_told, "{capability}: {told}");
        }
    }
    Ok(())
}

/// One at a time: what is lost is what is said, and nothing else.
#[tokio::test]
async fn fault_19_each_missing_capability_is_told_and_costs_what_is_said() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel().or(lacks("setpriv"))) {
        return Ok(());
    }
    let all = unit("AmbientCapabilities")?.concat();
    for missing in all.split(' ') {
        let rest = all.split(' ').filter(|it| *it != missing);
        let rest: Vec<_> = rest.map(str::to_owned).collect();
        let folder = open_folder()?;
        let collector = Collector::start_logged(with_capabilities(&rest), folder)?;
        let mut client = collector.connect().await?;
        let by_pid = WatchRequest::new(Target::pid(std::process::id()));
        if ["CAP_BPF", "CAP_PERFMON"].contains(&missing) {
            let refused = client.watch(by_pid).await;
            let code = refused.as_ref().err().map(tonic::Status::code);
            assert_eq!(code, Some(tonic::Code::FailedPrecondition), "{missing}");
            assert_eq!(reason(refused)?, "PROBES_NOT_ATTACHED", "{missing}");
        } else {
            let watch = request(&mut client, by_pid).await?;
            let mut ticks = subscribe(&mut client, &watch).await?;
            transfer(&mut connection()?, 4711)?;
            assert_eq!(settled(&mut ticks).await?.sent_bytes_total, 4711);
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let by_port = Target::port(listener.local_addr()?.port());
            let refused = client.watch(WatchRequest::new(by_port)).await;
            let code = refused.as_ref().err().map(tonic::Status::code);
            assert_eq!(code, Some(tonic::Code::NotFound), "{missing}");
            assert_eq!(reason(refused)?, "PROCESS_NOT_FOUND", "{missing}");
        }
        let log = collector.log()?;
        let mut told = log.lines().filter(|line| line.contains("is missing"));
        assert!(told.any(|line| line.contains(missing)), "{missing}: {log}");
        assert!(told.next().is_none(), "{log}");
    }
    Ok(())
}

/// A service manager's socket.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = UnixDatagram::bind(folder.path().join("notify"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, folder })
    }

    fn next(&self) -> Result<String> {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }
}

#[tokio::test]
async fn fault_24_a_service_manager_hears_when_it_counts_and_that_it_lives() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let manager = Manager::new()?;
    let mut command = Command::new(binary("netio-collector"));
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify"));
    command.env("WATCHDOG_USEC", "2000000");
    let mut collector = Collector::start_command(command, tempfile::tempdir()?)?;

    let ready = manager.next()?;
    assert!(ready.starts_with("READY=1\nSTATUS=counting by "), "{ready}");
    // Not before: it is attached now.
    let mut client = collector.connect().await?;
    let info = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    let info = info.into_inner().info.ok_or("no info")?;
    assert!(!info.programs.is_empty());
    let begin = Instant::now();
    for _ in 0..6 {
        assert_eq!(manager.next()?, "WATCHDOG=1");
    }
    // A queue may have held some of them.
    assert!(begin.elapsed() < Duration::from_secs(2) * 6);

    assert!(collector.terminate()?.success());
    loop {
        let word = manager.next()?;
        if word != "WATCHDOG=1" {
            assert_eq!(word, "STOPPING=1\nSTATUS=stopping");
            return Ok(());
        }
    }
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn sockets_that_are_handed_over_are_served_and_left() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel().or(lacks("systemd-socket-activate"))) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("handed.sock");
    let address = free_address()?.to_string();
    let mut activate = Command::new("systemd-socket-activate");
    activate
        .arg("--listen")
        .arg(&path)
        .args(["--listen", &address])
        .arg(binary("netio-collector"))
        .arg("--no-pin")
        .stdin(Stdio::null());
    let mut collector = Killed(without_netio_variables(&mut activate).spawn()?);
    let begin = Instant::now();
    while UnixStream::connect(&path).is_err() {
        assert!(begin.elapsed() < PATIENCE, "nobody listens");
        sleep(Duration::from_millis(50));
    }
    // Whoever connects starts it, and waits.
    for endpoint in [
        format!("unix://{}", path.display()),
        format!("http://{address}"),
    ] {
        let mut client = NetIoServiceClient::connect(endpoint).await?;
        let watch = request(
            &mut client,
            WatchRequest::new(Target::pid(std::process::id())),
        );
        let watch = watch.await?;
        let mut ticks = subscribe(&mut client, &watch).await?;
        assert_eq!(next_tick(&mut ticks).await?.samples.len(), 1);
    }
    support::signal(&collector.0, Signal::TERM)?;
    assert!(wait(&mut collector.0, PATIENCE)?.success());
    assert!(path.exists(), "the manager's file is not ours to remove");
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}

#[test]
fn the_unit_is_sound_and_exposes_little() -> Result {
    if skip(lacks("systemd-analyze")) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let collector = binary("netio-collector");
    let names = ["netio-collector.service", "netio-collector.socket"];
    for name in names {
        let text = fs::read_to_string(file("packaging/systemd").join(name))?;
        // Where it is installed, there is nothing here.
        let text = text.replace("/usr/bin/netio-collector", &collector.display().to_string());
        fs::write(folder.path().join(name), text)?;
    }
    let units = names.map(|name| folder.path().join(name));
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .args(&units)
        .output()?;
    let said = String::from_utf8(verified.stderr)?;
    assert!(verified.status.success() && said.is_empty(), "{said}");

    let exposed = Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true"])
        .arg(&units[0])
        .output()?;
    let said = String::from_utf8(exposed.stdout)?;
    let line = said
        .lines()
        .find(|line| line.contains("Overall exposure level"));
    let level = line.and_then(|line| line.split(": ").nth(1)?.split(' ').next());
    let level: f64 = level.ok_or("no level")?.parse()?;
    // As the README says.
    assert!(level <= 2.2, "{level}: {said}");
    Ok(())
}

/// The names of the calls that a filter of systemd's allows, sets expanded.
fn expand(names: &str) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for name in names.split_ascii_whitespace() {
        if !name.starts_with('@') {
            all.insert(name.to_owned());
            continue;
        }
        let told = Command::new("systemd-analyze")
            .args(["syscall-filter", name])
            .output()?;
        let told = String::from_utf8(told.stdout)?;
        let members = told.lines().skip(1).map(str::trim);
        for member in members.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            all.extend(expand(member)?);
        }
    }
    Ok(all)
}

/// What the unit allows.
fn allowed_by_unit() -> Result<BTreeSet<String>> {
    let mut allowed = expand("@default")?;
    for line in unit("SystemCallFilter")? {
        match line.strip_prefix('~') {
            Some(names) => {
                let denied = expand(names)?;
                allowed.retain(|name| !denied.contains(name));
            }
            None => allowed.extend(expand(&line)?),
        }
    }
    Ok(allowed)
}

/// Ends what strace runs by a signal; strace ends with it.
fn end(mut collector: Collector, signal: Signal) -> Result<ExitStatus> {
    let children = format!("/proc/{0}/task/{0}/children", collector.pid());
    let traced = fs::read_to_string(children)?.trim().parse()?;
    let traced = Pid::from_raw(traced).ok_or("no pid")?;
    kill_process(traced, signal)?;
    collector.end()
}

/// The names of the calls in a trace, none of which was refused.
fn calls(trace: &Path) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for line in fs::read_to_string(trace)?.lines() {
        // "PID call(...) = ..." or "PID <... call resumed>...".
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start().trim_start_matches("<... ");
        let name: String = call
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let refused = line.contains("= -1 ENOSYS");
        assert!(!refused || name == "clone3", "{line}");
        seen.insert(name);
    }
    seen.remove("");
    Ok(seen)
}

#[tokio::test]
async fn no_call_that_it_makes_is_refused_here_or_by_the_unit() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks("strace").or(lacks("systemd-analyze"))) {
        return Ok(());
    }
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let traces = tempfile::tempdir()?;
    let mut seen = BTreeSet::new();
    // It begins, goes on when it was killed, and hands over to other limits.
    let rounds: [&[&str]; 3] = [&[], &[], &["--max-processes", "300"]];
    for (round, more) in rounds.iter().enumerate() {
        let trace = traces.path().join(round.to_string());
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e", "signal=none", "-o"])
            .arg(&trace)
            .arg(binary("netio-collector"))
            .args(bpffs.arguments())
            .args(*more);
        let collector = Collector::start_command(command, tempfile::tempdir()?)?;
        assert_it_counts(&collector.socket).await?;
        if round < 2 {
            end(collector, Signal::KILL)?;
        } else {
            // Past the first look at missed events.
            sleep(Duration::from_secs(11));
            assert!(end(collector, Signal::TERM)?.success());
        }
        seen.extend(calls(&trace)?);
    }
    for name in ["bpf", "accept4", "flock", "sched_setaffinity"] {
        assert!(seen.contains(name), "{name} is not among {seen:?}");
    }
    let allowed = allowed_by_unit()?;
    for name in &seen {
        assert!(allowed.contains(name), "the unit refuses {name}");
    }
    Ok(())
}
