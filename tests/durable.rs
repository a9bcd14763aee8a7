//! A collector that is killed loses nothing: the kernel counts on, and the next
//! collector goes on with the same watches, to the byte.
//!
//! Each test mounts a BPF filesystem of its own.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::chown,
    process::Command,
    time::{Duration, Instant},
};

use netio::v1::{
    ListWatchesRequest, ProcessState, Target, Watch, WatchRequest, watch_request::Life,
};
use support::{
    Collector, Result,
    bpffs::{
        Bpffs, INTERVAL, are_loaded, bpffs, first_tick, info, standing, totals, wait_until_gone,
    },
    file, listed,
    load::{Random, Running},
    puppets::Puppets,
    request,
    service::{UID, lacks, open_folder, unit_capabilities, with_capabilities},
    skip, unwatch,
};

/// Times that the collector is killed under load.
const KILLS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_15_fifty_kills_under_load_lose_and_double_nothing() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut load = Running::start(0x9e37_79b9_7f4a_7c15)?;
    let mut random = Random(42);
    let mut watches: BTreeMap<String, (u32, Watch)> = BTreeMap::new();
    let (mut generations, mut sequence) = (BTreeSet::new(), 0);
    let mut lineage = None;
    let start = Instant::now();
    for kill in 0..=KILLS {
        let collector = bpffs.collector(&INTERVAL)?;
        let mut client = collector.connect().await?;
        let info = info(&mut client).await?;
        assert!(info.durable, "{}", info.not_durable_cause);
        let tick = first_tick(&mut client).await?;
        assert!(
            tick.sequence > sequence,
            "after {sequence} came {}",
            tick.sequence
        );
        sequence = tick.sequence;
        let instance = tick.instance.ok_or("no instance")?;
        assert!(generations.insert(instance.generation));
        let first = *lineage.get_or_insert(instance.generation);
        assert_eq!(instance.lineage, first, "after {kill} kills");
        let list = client
            .list_watches(ListWatchesRequest {})
            .await?
            .into_inner();
        let ids: BTreeSet<&str> = list.watches.iter().map(|it| it.watch_id.as_str()).collect();
        let expected: BTreeSet<&str> = watches.keys().map(String::as_str).collect();
        assert_eq!(ids, expected, "after {kill} kills");
        if kill == KILLS {
            load.end();
            let samples = totals(&mut client).await?;
            let load = load.lock();
            let mut all = 0;
            for (id, (pid, _)) in &watches {
                let sample = samples.get(id).ok_or("a watch is not told")?;
                assert_eq!(sample.sent_bytes_total, load.sent[pid], "{id}: {sample:?}");
                assert_eq!(sample.received_bytes_total, 0, "{id}");
                all += sample.sent_bytes_total;
            }
            eprintln!(
                "{KILLS} kills in {:?}: {all} B in {} watches, {} births",
                start.elapsed(),
                watches.len(),
                load.births
            );
            break;
        }
        // Watches come and go between the kills, too.
        if watches.len() < 6 {
            let pid = load.lock().start()?;
            let lease = WatchRequest {
                life: Some(Life::LeaseTtl(Duration::from_secs(3600).try_into()?)),
                ..standing(pid)
            };
            let wish = if kill % 2 == 0 { standing(pid) } else { lease };
            let watch = request(&mut client, wish).await?;
            load.lock().busy.insert(pid, pid);
            watches.insert(watch.watch_id.clone(), (pid, watch));
        } else {
            let nth = random.below(watches.len() as u64) as usize;
            let id = watches.keys().nth(nth).cloned().unwrap_or_default();
            let (pid, watch) = watches.remove(&id).ok_or("no such watch")?;
            unwatch(&mut client, &watch).await?;
            load.lock().busy.retain(|_, root| *root != pid);
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        collector.kill()?;
        tokio::time::sleep(Duration::from_millis(random.below(200))).await;
    }
    Ok(())
}

#[tokio::test]
async fn fault_15_who_exits_or_is_born_while_there_is_no_collector_is_counted() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut puppets = Puppets::new()?;
    let [alone, parent] = [puppets.start()?, puppets.start()?];
    let collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    let lone = request(&mut client, standing(alone)).await?;
    let family = request(&mut client, standing(parent)).await?;
    let ttl = Duration::from_secs(1);
    let short = WatchRequest {
        life: Some(Life::LeaseTtl(ttl.try_into()?)),
        ..WatchRequest::new(Target::pid(parent))
    };
    let short = request(&mut client, short).await?;
    puppets.send(alone, 1_000)?;
    collector.kill()?;

    puppets.send(alone, 20_000)?;
    puppets.exit(alone)?;
    let child = puppets.fork(parent, None)?;
    puppets.send(child, 300_000)?;
    let grandchild = puppets.fork(child, None)?;
    puppets.send(grandchild, 4_000_000)?;
    puppets.exit(child)?;
    tokio::time::sleep(ttl + Duration::from_millis(100)).await;

    let collector = bpffs.collector(&["--interval", "2s"])?;
    let mut client = collector.connect().await?;
    let tick = first_tick(&mut client).await?;
    let of = |watch: &Watch| {
        let mut samples = tick.samples.iter();
        samples.find(|it| it.watch_id == watch.watch_id).cloned()
    };
    let last = of(&lone).ok_or("it is not told once more")?;
    assert_eq!(last.state(), ProcessState::Exited);
    assert_eq!(last.sent_bytes_total, 21_000, "{last:?}");
    let kin = of(&family).ok_or("the family is not told")?;
    assert_eq!(kin.sent_bytes_total, 4_300_000, "{kin:?}");
    assert_eq!(kin.process_count, 3, "one of them exited: {kin:?}");
    assert_eq!(of(&short), None, "a lease ran out meanwhile");
    let now = listed(&mut client, &family).await?.ok_or("it is gone")?;
    let pids: Vec<u32> = now.processes.iter().map(|it| it.pid).collect();
    assert_eq!(pids, [parent, grandchild]);
    Ok(())
}

#[tokio::test]
async fn a_stop_leaves_nothing_unless_it_is_to_count_on() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let mut collector = bpffs.collector(&[&INTERVAL[..], &["--keep-at-stop"]].concat())?;
    let mut client = collector.connect().await?;
    let watch = request(&mut client, standing(pid)).await?;
    puppets.send(pid, 1_000)?;
    assert!(collector.terminate()?.success());
    puppets.send(pid, 2_000)?;

    let mut collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    let told = totals(&mut client).await?;
    assert_eq!(told[&watch.watch_id].sent_bytes_total, 3_000);
    let before = info(&mut client).await?;
    assert!(are_loaded(&before));
    assert!(collector.terminate()?.success());
    wait_until_gone(&before)?;
    assert!(!bpffs.pins().join("v1/1").exists());
    assert!(!bpffs.state().join("state").exists());

    let collector = bpffs.collector(&INTERVAL)?;
    let mut client = collector.connect().await?;
    assert!(totals(&mut client).await?.is_empty());
    Ok(())
}

/// The folder for the pins as packages have it made, for this user.
fn make_folder(bpffs: &Bpffs) -> Result {
    let wish = fs::read_to_string(file("packaging/systemd/netio.tmpfiles.conf"))?;
    let pins = bpffs.pins().display().to_string();
    let own = wish.replace("/sys/fs/bpf/netio", &pins);
    let own = own.replace("netio netio -", &format!("{UID} {UID} -"));
    assert!(own.contains(&pins) && own.contains(UID), "{wish}");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("netio.conf");
    fs::write(&path, own)?;
    let mut command = Command::new("systemd-tmpfiles");
    assert!(command.arg("--create").arg(&path).status()?.success());
    Ok(())
}

#[tokio::test]
async fn without_root_it_goes_on_too() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    if skip(lacks("setpriv").or(lacks("systemd-tmpfiles"))) {
        return Ok(());
    }
    make_folder(&bpffs)?;
    // systemd's part of RuntimeDirectory=.
    fs::create_dir(bpffs.state())?;
    let user = UID.parse()?;
    chown(bpffs.state(), Some(user), Some(user))?;
    let start = |more: &[&str]| {
        let mut command = with_capabilities(&unit_capabilities()?);
        command.args(bpffs.arguments()).args(INTERVAL).args(more);
        Collector::start_command(command, open_folder()?)
    };
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let mut expected = 0;
    // The last one hands over to limits of its own.
    for (round, more) in [&[][..], &[], &["--max-processes", "300"]]
        .iter()
        .enumerate()
    {
        let collector = start(more)?;
        let mut client = collector.connect().await?;
        let now = info(&mut client).await?;
        assert!(now.durable, "{}", now.not_durable_cause);
        // Read without a right to look programs up.
        let missed = now.missed_events.ok_or("not told")?;
        assert!(missed.recursion.is_some(), "in round {round}");
        if round == 0 {
            request(&mut client, standing(pid)).await?;
        }
        puppets.send(pid, 1_000)?;
        expected += 1_000;
        let told = totals(&mut client).await?;
        let sent: Vec<u64> = told.values().map(|it| it.sent_bytes_total).collect();
        assert_eq!(sent, [expected], "in round {round}");
        if round == 2 {
            assert_eq!(now.limits.ok_or("no limits")?.max_processes, 300);
        }
        collector.kill()?;
        puppets.send(pid, 50)?;
        expected += 50;
    }
    Ok(())
}
