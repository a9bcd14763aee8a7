//! Collectors that keep what they watch: where, and what the next one tells of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use aya::programs::loaded_programs;
use netio::v1::{
    CollectorInfo, GetCollectorInfoRequest, NetIoSample, SubscribeRequest, SubscribeResponse,
    Target, WatchRequest, net_io_service_client::NetIoServiceClient, watch_request::Life,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{Collector, PATIENCE, Result, lacks_kernel, next_tick, output, program, skip};

pub type Client = NetIoServiceClient<Channel>;

/// Short, so that tests are.
pub const INTERVAL: [&str; 2] = ["--interval", "100ms"];

/// A BPF filesystem, and a folder for the state; gone when dropped, with all that is
/// pinned.
pub struct Bpffs(TempDir);

impl Bpffs {
    /// None, if it cannot be mounted.
    pub fn mount() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("bpf");
        fs::create_dir(&place)?;
        let mut mount = Command::new("mount");
        // As systemd does it.
        mount.args(["-t", "bpf", "-o", "mode=0700", "bpf"]);
        let mount = mount.arg(&place).status();
        Ok(mount.is_ok_and(|it| it.success()).then_some(Self(folder)))
    }

    pub fn pins(&self) -> PathBuf {
        self.0.path().join("bpf/netio")
    }

    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// What makes a collector keep its state here.
    pub fn arguments(&self) -> [String; 4] {
        let path = |path: PathBuf| path.display().to_string();
        [
            "--pin-path".to_owned(),
            path(self.pins()),
            "--state-dir".to_owned(),
            path(self.state()),
        ]
    }

    pub fn collector(&self, arguments: &[&str]) -> Result<Collector> {
        let own = self.arguments();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        Collector::start(&[&own, arguments].concat())
    }

    /// The same, with its log in a file.
    pub fn logged(&self, arguments: &[&str]) -> Result<Collector> {
        let mut command = program("netio-collector");
        command.args(self.arguments()).args(arguments);
        Collector::start_logged(command, tempfile::tempdir()?)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount.arg("-l").arg(self.0.path().join("bpf")).status();
    }
}

/// A BPF filesystem, unless the test must be left out.
pub fn bpffs() -> Result<Option<Bpffs>> {
    if skip(lacks_kernel()) {
        return Ok(None);
    }
    let mounted = Bpffs::mount()?;
    skip(
        mounted
            .is_none()
            .then_some("a BPF filesystem: mount -t bpf fails"),
    );
    Ok(mounted)
}

/// The newest samples of all watches, read after everything that was done before.
pub async fn totals(client: &mut Client) -> Result<BTreeMap<String, NetIoSample>> {
    let mut ticks = client
        .subscribe(SubscribeRequest::default())
        .await?
        .into_inner();
    let now = SystemTime::now();
    loop {
        let tick = next_tick(&mut ticks).await?;
        if SystemTime::try_from(tick.time.ok_or("no time")?)? > now {
            let samples = tick.samples.into_iter();
            return Ok(samples.map(|it| (it.watch_id.clone(), it)).collect());
        }
    }
}

pub async fn first_tick(client: &mut Client) -> Result<SubscribeResponse> {
    let mut ticks = client
        .subscribe(SubscribeRequest::default())
        .await?
        .into_inner();
    next_tick(&mut ticks).await
}

pub async fn info(client: &mut Client) -> Result<CollectorInfo> {
    let answer = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    Ok(answer.into_inner().info.ok_or("no info")?)
}

/// Whether any of the programs of before is loaded.
pub fn are_loaded(info: &CollectorInfo) -> bool {
    let ids: BTreeSet<u32> = info.programs.iter().map(|it| it.program_id).collect();
    loaded_programs().flatten().any(|it| ids.contains(&it.id()))
}

/// The kernel lets go of programs a moment after their last link has gone.
pub fn wait_until_gone(info: &CollectorInfo) -> Result {
    let start = Instant::now();
    while are_loaded(info) {
        if start.elapsed() > PATIENCE {
            return Err("programs are still loaded".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn standing(pid: u32) -> WatchRequest {
    WatchRequest {
        life: Some(Life::Standing(true)),
        ..WatchRequest::new(Target::pid(pid).following_children(true))
    }
}

pub fn uninstall(arguments: &[String]) -> Result<std::process::Output> {
    output(program("netio-collector").arg("uninstall").args(arguments))
}
