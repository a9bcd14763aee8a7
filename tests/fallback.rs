//! Hooks that are not to be had: others count the same, and where there are none, that
//! is said.

mod support;

use std::process::Command;

use netio::v1::{GetCollectorInfoRequest, HookMode, SubscribeResponse, Target, WatchRequest};
use support::{
    Collector, Result, binary, connection, lacks_kernel, output, program, reason, request, settled,
    skip, subscribe, transfer,
};
use tokio::sync::Mutex;
use tonic::{Code, Streaming};

/// One test at a time: what this process sends is counted.
static ALONE: Mutex<()> = Mutex::const_new(());

const BYTES: usize = 4_711;

/// Hides the kernel's BTF.
const NO_BTF: &str = "mount -t tmpfs none /sys/kernel/btf";
/// Shows tracefs, which not every machine mounts.
const TRACEFS: &str =
    "{ test -d /sys/kernel/tracing/events || mount -t tracefs none /sys/kernel/tracing; }";
/// Hides tracefs, wherever it is mounted.
const NO_TRACEFS: &str = "for place in /sys/kernel/tracing /sys/kernel/debug; do \
    ! test -d $place || mount -t tmpfs none $place || exit 1; done";

/// A collector that sees no BTF of the kernel, but tracefs.
fn without_btf(arguments: &[&str]) -> Result<Collector> {
    where_is([NO_BTF, TRACEFS], arguments)
}

/// A collector on a machine of which something is hidden.
fn where_is(changes: [&str; 2], arguments: &[&str]) -> Result<Collector> {
    let prepare = format!("{} && exec \"$0\" \"$@\"", changes.join(" && "));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &prepare]);
    command.arg(binary("netio-collector")).args(arguments);
    command.env("NETIO_LOG", "error");
    Collector::start_command(command, tempfile::tempdir()?)
}

#[tokio::test]
async fn fault_20_without_btf_bytes_are_exact_and_what_cannot_be_is_refused() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = without_btf(&[])?;
    let mut client = collector.connect().await?;
    let info = client.get_collector_info(GetCollectorInfoRequest {});
    let info = info.await?.into_inner().info.ok_or("no info")?;
    assert_eq!(info.hook_mode(), HookMode::Tracepoint);
    assert!(!info.blind_spots.is_empty(), "what it misses is not told");
    let shown = shown(&collector)?;
    assert!(shown.contains("tracepoint"), "{shown}");
    for spot in &info.blind_spots {
        assert!(shown.contains(&spot.id), "{}: {shown}", spot.id);
    }

    let own = Target::pid(std::process::id());
    let watch = request(&mut client, WatchRequest::new(own.clone())).await?;
    let mut ticks = subscribe(&mut client, &watch).await?;
    let mut link = connection()?;
    for round in 1..=20 {
        transfer(&mut link, BYTES * round)?;
    }
    let sample = settled(&mut ticks).await?;
    let truth = (BYTES * 210) as u64;
    let counted = (sample.sent_bytes_total, sample.received_bytes_total);
    assert_eq!(counted, (truth, truth));

    let family = WatchRequest::new(own.following_children(true));
    let refused = client.watch(family).await;
    let code = refused.as_ref().err().map(tonic::Status::code);
    assert_eq!(code, Some(Code::FailedPrecondition));
    assert_eq!(reason(refused)?, "CHILDREN_NOT_FOLLOWED");
    Ok(())
}

#[tokio::test]
async fn fault_20_hooks_that_do_not_load_refuse_to_watch_and_say_why() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = without_btf(&["--hooks", "fentry"])?;
    let mut client = collector.connect().await?;
    let own = WatchRequest::new(Target::pid(std::process::id()));
    let refused = client.watch(own).await;
    let status = refused.as_ref().err().ok_or("it was not refused")?;
    assert_eq!(status.code(), Code::FailedPrecondition);
    for word in ["BTF", "CONFIG_DEBUG_INFO_BTF=y"] {
        assert!(status.message().contains(word), "{status}");
    }
    assert_eq!(reason(refused)?, "PROBES_NOT_ATTACHED");
    let shown = shown(&collector)?;
    assert!(shown.contains("CONFIG_DEBUG_INFO_BTF=y"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn fault_20_where_no_mode_attaches_each_says_why() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let collector = where_is([NO_BTF, NO_TRACEFS], &[])?;
    let mut client = collector.connect().await?;
    let own = WatchRequest::new(Target::pid(std::process::id()));
    let refused = client.watch(own).await;
    let code = refused.as_ref().err().map(tonic::Status::code);
    assert_eq!(code, Some(Code::FailedPrecondition));
    assert_eq!(reason(refused)?, "PROBES_NOT_ATTACHED");
    let shown = shown(&collector)?;
    let info = client.get_collector_info(GetCollectorInfoRequest {});
    let info = info.await?.into_inner().info.ok_or("no info")?;
    assert_eq!(info.attempts.len(), 3, "{:?}", info.attempts);
    for attempt in &info.attempts {
        for text in [&attempt.cause, &attempt.remedy] {
            assert!(!text.is_empty() && shown.contains(text), "{text}: {shown}");
        }
    }
    Ok(())
}

/// What `netio-client info` shows of it.
fn shown(collector: &Collector) -> Result<String> {
    let mut info = program("netio-client");
    info.args(["info", "--endpoint", &collector.endpoint()]);
    Ok(String::from_utf8(output(&mut info)?.stdout)?)
}

/// A collector that counts in one way, with a stream of its watch of this process.
struct Counting {
    way: &'static str,
    ticks: Streaming<SubscribeResponse>,
    _collector: Collector,
}

/// None, and that is said, where this kernel does not have the mode; the kernels of the
/// accuracy table have all.
async fn counting(
    collector: Collector,
    mode: HookMode,
    way: &'static str,
) -> Result<Option<Counting>> {
    let mut client = collector.connect().await?;
    let info = client.get_collector_info(GetCollectorInfoRequest {});
    let info = info.await?.into_inner().info.ok_or("no info")?;
    if info.hook_mode() == HookMode::Unspecified {
        println!("{way}: not on this kernel: {:?}", info.attempts);
        return Ok(None);
    }
    assert_eq!(info.hook_mode(), mode);
    let own = WatchRequest::new(Target::pid(std::process::id()));
    let watch = request(&mut client, own).await?;
    Ok(Some(Counting {
        way,
        ticks: subscribe(&mut client, &watch).await?,
        _collector: collector,
    }))
}

/// Side by side, which without BTF counts by the tracepoints' records.
#[tokio::test]
async fn fault_20_each_mode_that_attaches_counts_to_the_byte() -> Result {
    let _alone = ALONE.lock().await;
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let mut all = Vec::new();
    for (mode, way) in [
        (HookMode::Tracepoint, "tracepoint"),
        (HookMode::Fentry, "fentry"),
        (HookMode::Kprobe, "kprobe"),
    ] {
        let collector = Collector::start(&["--hooks", way])?;
        all.extend(counting(collector, mode, way).await?);
    }
    let blind = without_btf(&[])?;
    all.extend(counting(blind, HookMode::Tracepoint, "tracepoint, no BTF").await?);
    // Which ones do is the kernel's affair; the accuracy table has kernels for all.
    assert!(!all.is_empty(), "no mode attaches");
    let mut link = connection()?;
    for round in 1..=20 {
        transfer(&mut link, BYTES * round)?;
    }
    let truth = (BYTES * 210) as u64;
    for counting in &mut all {
        let sample = settled(&mut counting.ticks).await?;
        let counted = (sample.sent_bytes_total, sample.received_bytes_total);
        assert_eq!(counted, (truth, truth), "{}", counting.way);
    }
    Ok(())
}
