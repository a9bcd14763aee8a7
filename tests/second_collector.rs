//! Two collectors in one place: what is left of a dead one is replaced, and a live one
//! is left alone.

mod support;

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
};

use support::{
    Collector, Result,
    bpffs::{Client, INTERVAL, are_loaded, bpffs, info, uninstall, wait_until_gone},
    lacks_kernel, output, program, skip,
};

#[tokio::test]
async fn fault_26_a_dead_collectors_socket_is_replaced_and_a_live_ones_is_not() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shared.sock");
    let address = format!("unix://{}", path.display());
    let serves = async || -> Result {
        let mut client = Client::connect(address.clone()).await?;
        assert!(!info(&mut client).await?.programs.is_empty());
        Ok(())
    };
    let first = Collector::start(&["--listen", &address])?;
    serves().await?;
    first.kill()?;
    assert!(path.exists() && UnixStream::connect(&path).is_err());

    let _second = Collector::start(&["--listen", &address])?;
    serves().await?;
    let before = fs::metadata(&path)?;
    let third = output(program("netio-collector").args(["--no-pin", "--listen", &address]))?;
    let told = String::from_utf8_lossy(&third.stderr);
    assert!(!third.status.success());
    assert!(told.contains("another collector"), "{told}");
    assert_eq!(fs::metadata(&path)?.ino(), before.ino());
    serves().await
}

#[tokio::test]
async fn fault_26_a_second_collector_is_refused_and_what_is_left_can_be_removed() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    let before = info(&mut client).await?;
    let socket = tempfile::tempdir()?;
    let mut second = program("netio-collector");
    second
        .arg("--listen")
        .arg(format!("unix://{}/sock", socket.path().display()))
        .args(bpffs.arguments());
    let second = output(&mut second)?;
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(
        told.contains("another collector keeps its state in"),
        "{told}"
    );
    // Beside it, with pins of its own or none, it may run.
    let other = Collector::start(&INTERVAL)?;
    assert!(!info(&mut other.connect().await?).await?.durable);

    let refused = uninstall(&bpffs.arguments())?;
    assert!(!refused.status.success());
    collector.kill()?;
    assert!(are_loaded(&before), "the kernel counts on");
    let done = uninstall(&bpffs.arguments())?;
    assert!(done.status.success(), "{done:?}");
    wait_until_gone(&before)?;
    assert!(!bpffs.pins().exists() && !bpffs.state().exists());
    let again = uninstall(&bpffs.arguments())?;
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to remove"));
    Ok(())
}
