//! Where nothing can be pinned or written down, a collector counts all the same, and
//! says that it would not outlive its end.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use support::{
    Collector, PATIENCE, Result, binary,
    bpffs::{Client, INTERVAL, bpffs, info, standing, totals},
    lacks_kernel,
    puppets::Puppets,
    request,
    service::lacks,
    skip,
};
use tempfile::TempDir;

/// A mount namespace of its own, in which nothing is mounted but for its collectors;
/// gone when dropped.
struct Mounts {
    holder: Child,
    folder: TempDir,
}

impl Mounts {
    /// `script` mounts things, in the folder that it begins in; none, if it cannot.
    fn new(script: &str) -> Result<Option<Self>> {
        if skip(lacks_kernel().or(lacks("unshare")).or(lacks("nsenter"))) {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let script = format!("set -e; {script}; echo ready; exec cat");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut told = String::new();
        let output = holder.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut told)?;
        let mounts = Self { holder, folder };
        let lacking = (told != "ready\n").then_some("mounts of its own: unshare or mount fails");
        Ok((!skip(lacking)).then_some(mounts))
    }

    /// A path below the folder, as collectors see it.
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The same, as it is seen from here.
    fn seen_from_here(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        PathBuf::from(root + &self.path(name))
    }

    /// What runs a program in there; in the holder's root, which in a chroot is another than
    /// the mounts'.
    fn enter(&self) -> Command {
        let holder = format!("/proc/{}", self.holder.id());
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={holder}/ns/mnt"));
        command.arg(format!("--root={holder}/root"));
        command
    }

    /// A collector that pins at a path, and has its state in the folder `state`; and
    /// where it logs.
    fn collector_at(&self, pins: &str) -> Result<(Collector, PathBuf)> {
        let mut command = self.enter();
        command.arg(binary("netio-collector")).args(INTERVAL);
        command.args(["--pin-path", pins, "--state-dir", &self.path("state/own")]);
        command.env("NETIO_LOG", "warn");
        let log = self.folder.path().join("log");
        command.stderr(fs::File::create(&log)?);
        let collector = Collector::start_command(command, tempfile::tempdir()?)?;
        Ok((collector, log))
    }

    fn collector(&self) -> Result<(Collector, PathBuf)> {
        self.collector_at(&self.path("bpf/netio"))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// It counts, but would not survive: its info and its log say why.
async fn counts_all_the_same((collector, log): &(Collector, PathBuf), why: &str) -> Result {
    let mut client = collector.connect().await?;
    let told = info(&mut client).await?;
    assert!(!told.durable);
    let cause = told.not_durable_cause;
    assert!(cause.contains(why), "{cause}");
    let log = fs::read_to_string(log)?;
    assert!(log.contains(why), "{log}");
    counts(&mut client).await
}

async fn counts(client: &mut Client) -> Result {
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let watch = request(client, standing(pid)).await?;
    puppets.send(pid, 1_234)?;
    let told = totals(client).await?;
    assert_eq!(told[&watch.watch_id].sent_bytes_total, 1_234);
    Ok(())
}

#[tokio::test]
async fn fault_27_without_a_bpf_filesystem_it_counts_all_the_same() -> Result {
    let script = "mkdir state; umount --lazy /sys/fs/bpf 2>/dev/null || true";
    let Some(mounts) = Mounts::new(script)? else {
        return Ok(());
    };
    for pins in [mounts.path("pins"), "/sys/fs/bpf/netio".to_owned()] {
        let collector = mounts.collector_at(&pins)?;
        counts_all_the_same(&collector, "is in no BPF filesystem").await?;
    }
    assert!(!mounts.seen_from_here("pins").exists());
    Ok(())
}

#[tokio::test]
async fn fault_27_with_a_read_only_bpf_filesystem_it_counts_all_the_same() -> Result {
    let script = "mkdir state bpf; mount -t bpf -o ro bpf bpf";
    let Some(mounts) = Mounts::new(script)? else {
        return Ok(());
    };
    counts_all_the_same(&mounts.collector()?, "Read-only file system").await
}

/// What was pinned before it became so is neither believed nor in the way.
#[tokio::test]
async fn fault_27_with_pins_that_became_read_only_it_counts_all_the_same() -> Result {
    let script = "mkdir state bpf; mount -t bpf bpf bpf";
    let Some(mounts) = Mounts::new(script)? else {
        return Ok(());
    };
    let (collector, _) = mounts.collector()?;
    let mut client = collector.connect().await?;
    assert!(info(&mut client).await?.durable);
    counts(&mut client).await?;
    collector.kill()?;
    let remount = mounts
        .enter()
        .args(["mount", "-o", "remount,ro", &mounts.path("bpf")])
        .status()?;
    assert!(remount.success());
    let collector = mounts.collector()?;
    let mut client = collector.0.connect().await?;
    assert!(totals(&mut client).await?.is_empty());
    counts_all_the_same(&collector, "Read-only file system").await
}

#[tokio::test]
async fn fault_27_where_pins_are_not_wished_for_there_are_none() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let collector = bpffs.collector(&[&INTERVAL[..], &["--no-pin"]].concat())?;
    let mut client = collector.connect().await?;
    let told = info(&mut client).await?;
    assert!(!told.durable && told.not_durable_cause.contains("--no-pin"));
    counts(&mut client).await?;
    assert!(!bpffs.pins().exists() && !bpffs.state().exists());
    Ok(())
}

#[tokio::test]
async fn the_kprobe_mode_says_that_it_pins_nothing() -> Result {
    let Some(mounts) = Mounts::new("mkdir state bpf; mount -t bpf bpf bpf")? else {
        return Ok(());
    };
    let mut command = mounts.enter();
    command.arg(binary("netio-collector")).args(INTERVAL);
    command.args(["--pin-path", &mounts.path("bpf/netio"), "--hooks", "kprobe"]);
    command.args(["--state-dir", &mounts.path("state/own")]);
    let log = mounts.folder.path().join("log");
    command
        .env("NETIO_LOG", "warn")
        .stderr(fs::File::create(&log)?);
    let collector = Collector::start_command(command, tempfile::tempdir()?)?;
    let attached = info(&mut collector.connect().await?).await?;
    // Which modes a kernel has is no fault of its tests.
    if attached.programs.is_empty() {
        eprintln!("skipping test - lacks kprobes");
        return Ok(());
    }
    counts_all_the_same(
        &(collector, log),
        "the hooks of the kprobe mode end with the",
    )
    .await
}

/// Fills a filesystem.
fn fill(path: &PathBuf) -> Result {
    let mut file = fs::File::create(path)?;
    loop {
        match file.write_all(&[0; 4096]) {
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            written => written?,
        }
    }
}

/// Waits until the collector tells that it is durable, or not; and why.
async fn wait_for(client: &mut Client, durable: bool) -> Result<String> {
    let start = Instant::now();
    loop {
        let told = info(client).await?;
        if told.durable == durable {
            return Ok(told.not_durable_cause);
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("durable is not {durable}: {}", told.not_durable_cause).into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn fault_27_where_the_state_does_not_fit_it_counts_all_the_same() -> Result {
    let script = "mkdir state bpf; mount -t bpf bpf bpf; mount -t tmpfs -o size=64k tmpfs state";
    let Some(mounts) = Mounts::new(script)? else {
        return Ok(());
    };
    let filler = mounts.seen_from_here("state/filler");
    fill(&filler)?;
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    // Full from the start.
    let collector = mounts.collector()?;
    counts_all_the_same(&collector, "No space left on device").await?;

    // Once there is room, it is written down without anything to do about it.
    fs::remove_file(&filler)?;
    let (collector, log) = collector;
    let mut client = collector.connect().await?;
    assert_eq!(wait_for(&mut client, true).await?, "");
    let watch = request(&mut client, standing(pid)).await?;
    puppets.send(pid, 1_000)?;
    collector.kill()?;
    puppets.send(pid, 20_000)?;
    let (collector, _) = mounts.collector()?;
    let mut client = collector.connect().await?;
    let told = totals(&mut client).await?;
    assert_eq!(told[&watch.watch_id].sent_bytes_total, 21_000);
    drop(log);

    // Full later on: what is in the file by then is not what is watched.
    fill(&filler)?;
    let other = puppets.start()?;
    let late = request(&mut client, standing(other)).await?;
    let cause = wait_for(&mut client, false).await?;
    assert!(cause.contains("No space left on device"), "{cause}");
    puppets.send(pid, 300_000)?;
    puppets.send(other, 5)?;
    let told = totals(&mut client).await?;
    assert_eq!(told[&watch.watch_id].sent_bytes_total, 321_000);
    assert_eq!(told[&late.watch_id].sent_bytes_total, 5);
    collector.kill()?;
    let collector = mounts.collector()?;
    let mut client = collector.0.connect().await?;
    assert!(totals(&mut client).await?.is_empty(), "it begins anew");
    counts_all_the_same(&collector, "No space left on device").await
}
