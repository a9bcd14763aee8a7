//! A collector that takes over from one of another version, with other limits, or
//! what is not sound: it goes on to the byte, or begins anew, and never believes
//! what is not so.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aya::maps::{Array, HashMap, MapData, MapInfo};
use netio::v1::CollectorInfo;
use support::{
    Collector, Result, binary,
    bpffs::{INTERVAL, bpffs, first_tick, info, standing, totals, wait_until_gone},
    copy_program,
    load::Running,
    puppets::Puppets,
    request,
};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// The collector with an object of its own: the same programs, of which a byte that
/// nothing means is another.
fn other_collector(folder: &Path) -> Result<PathBuf> {
    let object = fs::read(support::file("collector/bpf/netio.bpf.o"))?;
    let mut program = fs::read(binary("netio-collector"))?;
    let place = program.windows(object.len()).position(|it| it == object);
    let place = place.ok_or("the collector holds no object")?;
    // Of the padding in the ELF header.
    program[place + 15] = 1;
    let [written, path] = ["written", "netio-collector"].map(|it| folder.join(it));
    fs::write(&written, program)?;
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755))?;
    copy_program(&written, &path)?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_16_upgrades_under_load_lose_and_double_nothing() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let [this, other] = [binary("netio-collector"), other_collector(folder.path())?];
    let start = |program: &Path, more: &[&str]| {
        let mut command = Command::new(program);
        command.args(bpffs.arguments()).args(INTERVAL).args(more);
        Collector::start_logged(command, tempfile::tempdir()?)
    };
    let mut load = Running::start(0x0123_4567_89ab_cdef)?;
    let collector = start(&this, &[])?;
    let mut client = collector.connect().await?;
    let mut watches = BTreeMap::new();
    for _ in 0..3 {
        let pid = load.lock().start()?;
        let watch = request(&mut client, standing(pid)).await?;
        watches.insert(watch.watch_id, pid);
        load.lock().busy.insert(pid, pid);
    }
    let mut before = info(&mut client).await?;
    collector.kill()?;
    let (mut programs, mut sequence) = ([&this, &other].into_iter().cycle(), 0);
    programs.next();
    let sizes: [&[&str]; 3] = [
        &[],
        &["--max-processes", "300"],
        &["--max-processes", "5000"],
    ];
    for round in 0..12 {
        let program = programs.next().ok_or("no program")?;
        let collector = start(program, sizes[round / 2 % sizes.len()])?;
        let mut client = collector.connect().await?;
        let now = info(&mut client).await?;
        let ids = |info: &CollectorInfo| -> BTreeSet<u32> {
            info.programs.iter().map(|it| it.program_id).collect()
        };
        assert!(ids(&before).is_disjoint(&ids(&now)), "in round {round}");
        let log = collector.log()?;
        for told in [
            "took over the probes",
            "the probes of before have handed over to others",
        ] {
            assert!(log.contains(told), "{told}, in round {round}: {log}");
        }
        wait_until_gone(&before)?;
        before = now;
        let tick = first_tick(&mut client).await?;
        assert!(tick.sequence > sequence);
        sequence = tick.sequence;
        if round == 11 {
            load.end();
            let told = totals(&mut client).await?;
            let load = load.lock();
            for (id, pid) in &watches {
                let sent = told[id].sent_bytes_total;
                assert_eq!(sent, load.sent[pid], "{id}");
                eprintln!("{id}: {sent} B over 12 upgrades");
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        collector.kill()?;
    }
    Ok(())
}

/// It has said that what there was is of no use, and why.
fn assert_anew(log: &str, why: &str) {
    let mut lines = log.lines();
    let told = lines.find(|line| line.contains("everything begins anew"));
    assert!(told.is_some_and(|line| line.contains(why)), "{why}: {log}");
}

#[tokio::test]
async fn fault_16_what_is_damaged_is_not_trusted() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    for (damage, why) in [
        ("cut off", "is damaged"),
        ("missing", "no state"),
        ("of before", "the pinned maps belong to"),
        ("without a map", "map COUNTERS"),
    ] {
        let collector = bpffs.collector(&INTERVAL)?;
        let mut client = collector.connect().await?;
        let before = info(&mut client).await?;
        let state = bpffs.state().join("state");
        let older = fs::read(&state)?;
        request(&mut client, standing(pid)).await?;
        request(&mut client, standing(pid)).await?;
        collector.kill()?;
        match damage {
            "cut off" => {
                let bytes = fs::read(&state)?;
                fs::write(&state, &bytes[..bytes.len() - 1])?;
            }
            "missing" => fs::remove_file(&state)?,
            "of before" => fs::write(&state, older)?,
            _ => fs::remove_file(bpffs.pins().join("v1/1/maps/COUNTERS"))?,
        }
        let mut collector = bpffs.logged(&INTERVAL)?;
        let mut client = collector.connect().await?;
        assert!(totals(&mut client).await?.is_empty(), "{damage}");
        assert_anew(&collector.log()?, why);
        assert!(info(&mut client).await?.durable, "{damage}");
        // Nothing of before counts on.
        wait_until_gone(&before)?;
        let watch = request(&mut client, standing(pid)).await?;
        puppets.send(pid, 777)?;
        let told = totals(&mut client).await?;
        assert_eq!(told[&watch.watch_id].sent_bytes_total, 777, "{damage}");
        assert!(collector.terminate()?.success());
    }
    Ok(())
}

/// Puts another map in the place of one that is pinned.
fn replace(place: &Path, how: &str) -> Result {
    let before = MapInfo::from_pin(place)?;
    let entries = before.max_entries();
    fs::remove_file(place)?;
    match how {
        // Half as wide, and as many.
        "values" => Array::<_, [u64; 2]>::create(entries, MMAPABLE)?.pin(place)?,
        "entries" => Array::<_, [u64; 4]>::create(entries / 2, MMAPABLE)?.pin(place)?,
        "flags" => Array::<_, [u64; 4]>::create(entries, 0)?.pin(place)?,
        _ => HashMap::<_, u32, [u64; 4]>::create(entries, 0)?.pin(place)?,
    }
    assert_ne!(MapInfo::from_pin(place)?.id(), before.id());
    Ok(())
}

#[tokio::test]
async fn fault_16_a_map_of_another_layout_is_refused() -> Result {
    let Some(bpffs) = bpffs()? else { return Ok(()) };
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    for change in ["values", "entries", "flags", "type", "version"] {
        let collector = bpffs.collector(&INTERVAL)?;
        let mut client = collector.connect().await?;
        let watch = request(&mut client, standing(pid)).await?;
        puppets.send(pid, 1_000)?;
        let told = totals(&mut client).await?;
        assert_eq!(told[&watch.watch_id].sent_bytes_total, 1_000, "{change}");
        let before = info(&mut client).await?;
        collector.kill()?;
        let maps = bpffs.pins().join("v1/1/maps");
        if change == "version" {
            // The maps' layout is the first thing that is noted in them.
            let marks = MapData::from_pin(maps.join("MARKS"))?;
            let mut marks = Array::<_, u64>::try_from(aya::maps::Map::Array(marks))?;
            let layout = marks.get(&0, 0)?;
            assert!(layout > 0);
            marks.set(0, layout + 1, 0)?;
        } else {
            replace(&maps.join("COUNTERS"), change)?;
        }

        let mut collector = bpffs.logged(&INTERVAL)?;
        let mut client = collector.connect().await?;
        assert!(totals(&mut client).await?.is_empty(), "{change}");
        let why = match change {
            "version" => "the pinned maps have layout",
            _ => "map COUNTERS is pinned with another layout",
        };
        assert_anew(&collector.log()?, why);
        assert!(info(&mut client).await?.durable, "{change}");
        wait_until_gone(&before)?;
        let watch = request(&mut client, standing(pid)).await?;
        puppets.send(pid, 4_321)?;
        let told = totals(&mut client).await?;
        assert_eq!(told[&watch.watch_id].sent_bytes_total, 4_321, "{change}");
        assert!(collector.terminate()?.success());
    }
    Ok(())
}
