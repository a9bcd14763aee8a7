//! What the end-to-end tests share: real binaries, a real collector, and the
//! rule for tests that need a privilege or a program which is not there.

// Each test file is a program of its own and uses a part of this; and nothing
// here is on a request path.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use netio::v1::{
    ListWatchesRequest, NetIoSample, SubscribeRequest, SubscribeResponse, Target, UnwatchRequest,
    Watch, WatchRequest, net_io_service_client::NetIoServiceClient, unwatch_request::Selector,
};
use tempfile::TempDir;
use tonic::{Streaming, transport::Channel};
use tonic_types::StatusExt as _;

pub mod bpffs;
pub mod generator;
pub mod ledger;
pub mod load;
pub mod mariadb;
pub mod mysql;
pub mod postgres;
pub mod puppets;
pub mod raw_http2;
pub mod redis;
pub mod relay;
pub mod servers;
pub mod service;

pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The time that anything may take which should take moments.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// True if the test must be left out, which is said aloud; where nothing may be
/// left out (`NETIO_REQUIRE_KERNEL=1`), that is a failure.
pub fn skip(lacking: Option<&str>) -> bool {
    let Some(lacking) = lacking else { return false };
    assert!(
        env::var_os("NETIO_REQUIRE_KERNEL").is_none_or(|value| value != "1"),
        "must run here, but lacks {lacking}"
    );
    eprintln!("skipping test - lacks {lacking}");
    true
}

/// What is lacking to attach probes, if anything.
pub fn lacks_kernel() -> Option<&'static str> {
    (!rustix::process::geteuid().is_root()).then_some("root, to load BPF programs")
}

/// The path of one of the workspace's programs, built with the tests' profile.
/// Where nothing can be built, as in a guest, it stands beside the test.
pub fn binary(name: &str) -> PathBuf {
    if !Path::new(env!("CARGO")).exists() {
        let test = env::current_exe().expect("the test's own path");
        return test.with_file_name(name);
    }
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let profile = profile();
    let release = profile.ends_with("release");
    let packages = ["netio-collector", "netio-client", "netio-traffic"];
    BUILT
        .get_or_init(|| {
            build(&packages, release);
            profile
        })
        .join(name)
}

/// The path of the collector as it is shipped: optimised, whatever the tests are.
pub fn optimised_collector() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["netio-collector"], true));
    profile().with_file_name("release").join("netio-collector")
}

/// Where this test's own profile puts programs: target/PROFILE, as the test is
/// target/PROFILE/deps/this-test.
fn profile() -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("a target directory");
    profile.to_owned()
}

fn build(packages: &[&str], release: bool) {
    let target = profile();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--bins"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build
        .arg("--target-dir")
        .arg(target.parent().expect("a target directory"));
    if release {
        build.arg("--release");
    }
    assert!(
        build.status().expect("cargo runs").success(),
        "the programs do not build"
    );
}

/// Makes a program's child not influenced by the variables of whoever runs the tests;
/// what the test itself has set for it stays.
pub fn without_netio_variables(command: &mut Command) -> &mut Command {
    let own: BTreeSet<OsString> = command.get_envs().map(|it| it.0.to_owned()).collect();
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("NETIO_") && !own.contains(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// One of the workspace's programs, as it runs without any variable of ours.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    without_netio_variables(&mut command);
    command
}

/// Copies a program to where it is to be run. By another process: what this one has open
/// for writing, a fork of another test's would hold, and such a file cannot be executed.
pub fn copy_program(from: &Path, to: &Path) -> Result {
    let copied = Command::new("cp").arg("-p").args([from, to]).status()?;
    if !copied.success() {
        return Err(format!("{} is not copied: {copied}", from.display()).into());
    }
    Ok(())
}

/// A `netio-collector` process on a Unix socket of its own; ended when dropped.
pub struct Collector {
    process: Child,
    pub socket: PathBuf,
    directory: TempDir,
}

impl Collector {
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_program(&binary("netio-collector"), arguments)
    }

    pub fn start_program(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).env("NETIO_LOG", "warn");
        Self::start_command(command, tempfile::tempdir()?)
    }

    /// By a command that takes the collector's arguments; with its socket in this
    /// folder.
    pub fn start_command(mut command: Command, directory: TempDir) -> Result<Self> {
        let socket = directory.path().join("collector.sock");
        command
            .arg("--listen")
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null());
        without_netio_variables(&mut command);
        if !command.get_args().any(|it| it == "--pin-path") {
            // Tests run side by side, and beside the host's own collector.
            command.env("NETIO_NO_PIN", "true");
        }
        let process = command.spawn()?;
        let mut collector = Self {
            process,
            socket,
            directory,
        };
        let start = Instant::now();
        while UnixStream::connect(&collector.socket).is_err() {
            if let Some(status) = collector.process.try_wait()? {
                return Err(format!("the collector ended at once: {status}").into());
            }
            if start.elapsed() > PATIENCE {
                return Err("the collector does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(collector)
    }

    /// The same, and what it says is in its [log](Self::log).
    pub fn start_logged(mut command: Command, directory: TempDir) -> Result<Self> {
        command.stderr(fs::File::create(directory.path().join("log"))?);
        Self::start_command(command, directory)
    }

    /// What one that was started so has said until now.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }

    /// The ids of the BPF maps that it has open.
    pub fn maps(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for file in fs::read_dir(format!("/proc/{}/fdinfo", self.process.id()))? {
            // It may be closed by now.
            let facts = fs::read_to_string(file?.path()).unwrap_or_default();
            let id = facts.lines().find_map(|line| line.strip_prefix("map_id:"));
            ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
        }
        Ok(ids)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid()))?;
        let pages = statm.split_whitespace().nth(1).ok_or("a strange statm")?;
        Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
    }

    /// What `--endpoint` takes.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub async fn connect(&self) -> Result<NetIoServiceClient<Channel>> {
        Ok(NetIoServiceClient::connect(self.endpoint()).await?)
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> Result {
        self::signal(&self.process, signal)
    }

    /// Kills it, so that it can do nothing about it.
    pub fn kill(mut self) -> Result {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.end()
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Result<std::process::ExitStatus> {
        wait(&mut self.process, PATIENCE)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(process: &Child, signal: rustix::process::Signal) -> Result {
    let pid = rustix::process::Pid::from_child(process);
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Runs a program to its end, which must come soon: it is killed otherwise. It must not
/// say more than a pipe holds.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let ended = wait(&mut process, PATIENCE);
    if ended.is_err() {
        process.kill()?;
    }
    let output = process.wait_with_output()?;
    ended.map_err(|error| format!("{command:?}: {error}; {output:?}"))?;
    Ok(output)
}

/// Waits for a process to end, but not forever.
pub fn wait(process: &mut Child, patience: Duration) -> Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > patience {
            return Err(format!("process {} does not end", process.id()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Watches a process.
pub async fn watch(client: &mut NetIoServiceClient<Channel>, pid: u32) -> Result<Watch> {
    request(client, WatchRequest::new(Target::pid(pid))).await
}

/// Makes a watch.
pub async fn request(
    client: &mut NetIoServiceClient<Channel>,
    request: WatchRequest,
) -> Result<Watch> {
    let response = client.watch(request).await?.into_inner();
    Ok(response.watch.ok_or("no watch in the response")?)
}

/// Ends a watch.
pub async fn unwatch(client: &mut NetIoServiceClient<Channel>, watch: &Watch) -> Result {
    let request = UnwatchRequest {
        selector: Some(Selector::WatchId(watch.watch_id.clone())),
    };
    let ended = client.unwatch(request).await?.into_inner().watch_ids;
    assert_eq!(ended, [watch.watch_id.as_str()]);
    Ok(())
}

/// The watch as ListWatches tells it now; none if it is gone.
pub async fn listed(
    client: &mut NetIoServiceClient<Channel>,
    watch: &Watch,
) -> Result<Option<Watch>> {
    let list = client.list_watches(ListWatchesRequest {}).await?;
    let mut watches = list.into_inner().watches.into_iter();
    Ok(watches.find(|listed| listed.watch_id == watch.watch_id))
}

/// The reason of a refusal, as google.rpc.ErrorInfo tells it.
pub fn reason<T: std::fmt::Debug>(
    refused: std::result::Result<tonic::Response<T>, tonic::Status>,
) -> Result<String> {
    let status = match refused {
        Ok(answer) => return Err(format!("it was not refused: {answer:?}").into()),
        Err(status) => status,
    };
    let info = status.get_details_error_info();
    Ok(info.ok_or_else(|| format!("no reason: {status}"))?.reason)
}

/// The stream of one watch.
pub async fn subscribe(
    client: &mut NetIoServiceClient<Channel>,
    watch: &Watch,
) -> Result<Streaming<SubscribeResponse>> {
    let watch_ids = vec![watch.watch_id.clone()];
    Ok(client
        .subscribe(SubscribeRequest::new(watch_ids))
        .await?
        .into_inner())
}

/// The next tick, which must come soon.
pub async fn next_tick(ticks: &mut Streaming<SubscribeResponse>) -> Result<SubscribeResponse> {
    let message = tokio::time::timeout(PATIENCE, ticks.message()).await??;
    Ok(message.ok_or("the stream ended")?)
}

/// The watch's sample in a tick of a stream that holds only that.
pub fn sample(tick: &SubscribeResponse) -> Result<&NetIoSample> {
    match tick.samples.as_slice() {
        [sample] => Ok(sample),
        other => Err(format!("{} samples instead of one", other.len()).into()),
    }
}

/// Reads ticks until one covers everything that was done before the call: the
/// second that was read by the collector after it. Some may wait unread from
/// before.
pub async fn settled(ticks: &mut Streaming<SubscribeResponse>) -> Result<NetIoSample> {
    let now = SystemTime::now();
    let mut after = 0;
    loop {
        let tick = next_tick(ticks).await?;
        let time = SystemTime::try_from(tick.time.ok_or("a tick without time")?)?;
        after += usize::from(time > now);
        if after == 2 {
            return Ok(sample(&tick)?.clone());
        }
    }
}

/// A connection over loopback, both ends in this process.
pub fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// Sends `bytes` over the connection and reads them.
pub fn transfer((near, far): &mut (TcpStream, TcpStream), bytes: usize) -> Result {
    let mut buffer = vec![0x5a; bytes];
    near.write_all(&buffer)?;
    far.read_exact(&mut buffer)?;
    Ok(())
}

/// A file of the checkout.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
