//! Pins and state are touched only by who may, and what was left counts on until others
//! do.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use netio::v1::ProbeState;
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use support::{
    PATIENCE, Result, binary,
    bpffs::{Bpffs, INTERVAL, bpffs, info, standing, totals, uninstall},
    output, program,
    puppets::Puppets,
    request,
    service::{UID, lacks},
    skip, without_netio_variables,
};

/// Every folder and pin there is.
fn pinned(bpffs: &Bpffs) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut left = vec![bpffs.pins()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
        found.insert(path);
    }
    Ok(found)
}

/// One that would count other processes than those that are named, as in a container of
/// its own, so that it counts none.
fn cannot_count(bpffs: &Bpffs) -> Result {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut start = Command::new("unshare");
    start
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(binary("netio-collector"))
        .args(bpffs.arguments())
        .arg("--listen")
        .arg(format!("unix://{}/sock", folder.path().display()));
    let mut start = without_netio_variables(&mut start)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let told = || fs::read_to_string(&log).unwrap_or_default();
    let begin = std::time::Instant::now();
    while !told().contains("counting interval") && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    start.kill()?;
    start.wait()?;
    // Its child dies with it, and has the folders until then.
    let state = fs::File::open(bpffs.state())?;
    while flock(&state, FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(begin.elapsed() < 2 * PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(state);
    assert!(told().contains("nothing can be counted"), "{}", told());
    Ok(())
}

#[tokio::test]
async fn fault_15_a_start_that_fails_leaves_what_is_pinned_as_it_was() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let fail = || -> Result {
        let folder = tempfile::tempdir()?;
        let mut start = program("netio-collector");
        start
            .args(bpffs.arguments())
            .args(["--grant", "watch token_file=/nowhere/token"])
            .arg("--listen")
            .arg(format!("unix://{}/sock", folder.path().display()));
        let failed = output(&mut start)?;
        let told = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{told}");
        assert!(told.contains("/nowhere/token"), "{told}");
        Ok(())
    };
    fail()?;
    assert_eq!(pinned(&bpffs)?, BTreeSet::from([bpffs.pins()]));
    assert!(!bpffs.state().join("state").exists());

    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    let watch = request(&mut client, standing(pid)).await?;
    puppets.send(pid, 1_000)?;
    collector.kill()?;
    let before = pinned(&bpffs)?;
    assert!(before.len() > 10, "{before:?}");
    fail()?;
    assert_eq!(pinned(&bpffs)?, before);
    cannot_count(&bpffs)?;
    assert_eq!(pinned(&bpffs)?, before);
    puppets.send(pid, 2_000)?;
    let collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    let told = totals(&mut client).await?;
    assert_eq!(told[&watch.watch_id].sent_bytes_total, 3_000);
    Ok(())
}

#[tokio::test]
async fn a_stop_while_probes_are_attached_leaves_nothing() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let mut amid = 0;
    for delay in [0, 30, 60, 120] {
        let mut collector = bpffs.collector(&["--detach-when-idle", "1s"])?;
        let mut client = collector.connect().await?;
        let begin = std::time::Instant::now();
        while info(&mut client).await?.probe_state() != ProbeState::Resting {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Without a connection there is less time for it.
        let stays = delay != 60;
        let watch = tokio::spawn(async move {
            let watched = request(&mut client, standing(pid)).await;
            watched.map_err(|error| error.to_string())
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        amid += u32::from(!watch.is_finished());
        if !stays {
            watch.abort();
        }
        collector.signal(Signal::TERM)?;
        assert!(collector.end()?.success());
        if stays {
            let _ = watch.await?;
        }
        let mut left = pinned(&bpffs)?;
        left.retain(|it| !it.is_dir());
        assert_eq!(left, BTreeSet::new(), "after {delay} ms");
    }
    assert!(amid > 0, "every watch was made before the stop");
    Ok(())
}

#[tokio::test]
async fn folders_that_others_can_write_to_are_not_used() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    if skip(lacks("setpriv")) {
        return Ok(());
    }
    let precious = tempfile::NamedTempFile::new()?;
    fs::write(precious.path(), "precious")?;
    let state = bpffs.state();
    fs::create_dir(&state)?;
    symlink(precious.path(), state.join("state.next"))?;
    let user = UID.parse()?;
    for (owner, mode, why) in [
        (Some(user), 0o700, "it is the user's with uid"),
        (Some(0), 0o777, "others may write to it (mode 777)"),
    ] {
        chown(&state, owner, owner)?;
        fs::set_permissions(&state, fs::Permissions::from_mode(mode))?;
        let collector = bpffs.collector(&INTERVAL)?;
        let told = info(&mut collector.connect().await?).await?;
        assert!(!told.durable);
        let cause = told.not_durable_cause;
        assert!(cause.contains(why), "{cause}");
        collector.kill()?;
    }
    // A link to a folder is none.
    let elsewhere = tempfile::tempdir()?;
    fs::rename(&state, elsewhere.path().join("state"))?;
    symlink(elsewhere.path().join("state"), &state)?;
    let collector = bpffs.collector(&INTERVAL)?;
    assert!(!info(&mut collector.connect().await?).await?.durable);
    collector.kill()?;
    fs::remove_file(&state)?;

    fs::create_dir(&state)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    symlink(precious.path(), state.join("state.next"))?;
    let collector = bpffs.collector(&INTERVAL)?;
    assert!(info(&mut collector.connect().await?).await?.durable);
    assert_eq!(fs::read(precious.path())?, b"precious");
    Ok(())
}

#[test]
fn nothing_but_pins_is_uninstalled() -> Result {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir_all(path("pins/v1/1"))?;
    fs::write(path("pins/v1/1/file"), "of somebody else's")?;
    let arguments = ["--pin-path", &path("pins"), "--state-dir", &path("state")];
    let refused = uninstall(&arguments.map(str::to_owned))?;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(told.contains("is in no BPF filesystem"), "{told}");
    assert!(fs::exists(path("pins/v1/1/file"))?);
    Ok(())
}
