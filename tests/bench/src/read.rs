//! `read`: what it costs at a tick to learn what every watched process did.
//!
//! netio's side is the service's own: its maps in the kernel, its registry, the
//! reading and the differences of a tick, and the message's way to the hub, encoded
//! ([`netio_collector::bench`]); the pids are made up. The rivals only read as many entries of a per-CPU hash map and add
//! the CPUs up, without taking differences: by asking for one key after the other,
//! as the BPF library does it, and by batches. The floor is the same sums over
//! plain memory.

use std::{hint::black_box, os::fd::AsFd as _, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Map, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use netio_collector::{
    Limits,
    bench::Registry,
    probe::{self, HookChoice, Keeping, ProbeOptions},
};

use crate::{
    CannotRun, machine,
    report::{Goal, Report, Section},
    rounds::Rounds,
    sys,
};

static TWINS: &[u8] = aya::include_bytes_aligned!("../bpf/twins.bpf.o");

const SIZES: [u32; 3] = [1_000, 10_000, 65_536];
const SHORT_SIZES: [u32; 1] = [1_000];
const ROUNDS: usize = 9;
/// Readings in a round, of which the fastest counts: the others were disturbed.
const READINGS: usize = 5;
/// Entries that a batch has room for.
const BATCH: usize = 4_096;

/// The goals: so many processes in so many milliseconds, differences included.
const MOST_MS: [(u32, f64); 2] = [(10_000, 2.0), (65_536, 10.0)];
/// What reading by batches takes, in multiples of netio's reading: the short form's
/// goal, which holds on any machine.
const TIMES_FASTER: f64 = 4.0;

type Counts = [u64; 4];

pub(crate) fn run(short: bool) -> Result<Report> {
    let cpus = machine::cpus()?;
    machine::pin(*cpus.first().context("no CPU")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // The registry makes tasks, which never run here.
    let _entered = runtime.enter();
    let sizes: &[u32] = if short { &SHORT_SIZES } else { &SIZES };
    let mut sections = Vec::new();
    for &size in sizes {
        match section(size, short) {
            Err(error) if error.is::<CannotRun>() && !sections.is_empty() => {
                eprintln!("skipped: {size} processes: {error}");
            }
            section => sections.push(section?),
        }
    }
    Ok(Report::new("read", sections))
}

fn section(size: u32, short: bool) -> Result<Section> {
    let watches = size.min(Limits::MAX_WATCHES);
    let mut in_one = registry(size, 1)?;
    let mut apart = registry(size, watches)?;
    let mut hash = Hash::filled(size)?;
    let memory = Memory::new(size)?;

    let mut measured = [(); 7].map(|()| Rounds::default());
    let [floor, one, parts, each, published, keys, batches] = &mut measured;
    let mut floor_again = Rounds::default();
    for _ in 0..if short { 3 } else { ROUNDS } {
        floor.push(fastest(|| Ok(memory.sum()))?);
        one.push(fastest(|| Ok(in_one.tick(false).len()))?);
        parts.push(fastest(|| Ok(in_one.tick(true).len()))?);
        each.push(fastest(|| Ok(apart.tick(false).len()))?);
        published.push(fastest(|| {
            apart.publish();
            Ok(())
        })?);
        keys.push(fastest(|| hash.by_keys())?);
        batches.push(fastest(|| hash.by_batches())?);
        floor_again.push(fastest(|| Ok(memory.sum()))?);
    }

    let mut section = Section::new(
        format!("{size} processes: ms to read them all"),
        &["ms", "times netio, one watch"],
    );
    let times = |rounds: &Rounds| rounds.times(one);
    let many = format!("netio, {watches} watches: read and take differences");
    for (side, rounds) in [
        ("netio, one watch: read and take differences", &*one),
        ("netio, one watch, with each process's part", parts),
        (many.as_str(), each),
        ("the same, and encode and publish them", published),
        ("per-CPU hash by next key (aya): read only", keys),
        ("per-CPU hash by BPF_MAP_LOOKUP_BATCH: read only", batches),
        ("plain memory: the sums only", floor),
    ] {
        section.row(side, &[Some(rounds), Some(&times(rounds))]);
    }
    for (_, most) in MOST_MS.iter().filter(|(of, _)| *of == size) {
        section.goal(Goal::at_most(*most, "ms, one watch", one));
        section.goal(Goal::at_most(*most, format!("ms, {watches} watches"), each));
        let what = format!("ms, {watches} watches, published");
        section.goal(Goal::at_most(*most, what, published));
    }
    let what = "BPF_MAP_LOOKUP_BATCH ÷ netio, one watch";
    section.goal(Goal::at_least(TIMES_FASTER, what, &times(batches)).gating());
    section.check_drift(floor, &floor_again);
    Ok(section)
}

/// Milliseconds of the fastest reading.
fn fastest<T>(mut read: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut fastest = f64::INFINITY;
    for _ in 0..READINGS {
        let start = Instant::now();
        let read = black_box(read()?);
        fastest = fastest.min(start.elapsed().as_secs_f64() * 1e3);
        drop(read);
    }
    Ok(fastest)
}

/// netio's registry, with `size` processes that do not exist in so many watches.
fn registry(size: u32, watches: u32) -> Result<Registry> {
    let limits = Limits {
        max_watches: watches,
        max_watches_per_owner: watches,
        max_processes: size,
        max_processes_per_watch: size,
        ..Limits::default()
    };
    let hooks = HookChoice::Auto;
    let kernel = probe::attach(&ProbeOptions {
        hooks,
        limits,
        keeping: Keeping::Not("it is part of another program".to_owned()),
    });
    if kernel.info().programs.is_empty() {
        return Err(CannotRun("netio's probes do not attach".to_owned()).into());
    }
    // The highest pids: those least likely to be somebody's.
    let first = kernel.max_pid().saturating_sub(size);
    if first < size {
        let why = format!(
            "kernel.pid_max allows only {} processes; `cargo xtask bench read` shows it another",
            kernel.max_pid()
        );
        return Err(CannotRun(why).into());
    }
    let mut registry = Registry::new(kernel, limits);
    // As even as whole numbers allow.
    let bound =
        |watch: u32| first + (u64::from(size) * u64::from(watch) / u64::from(watches)) as u32;
    for watch in 0..watches {
        let made = registry.watch(bound(watch)..bound(watch + 1));
        made.map_err(|error| anyhow!(error))
            .context("watch pids that are made up")?;
    }
    Ok(registry)
}

/// The rivals' map.
struct Hash {
    map: Map,
    size: u32,
    cpus: usize,
    keys: Vec<u32>,
    values: Vec<Counts>,
}

impl Hash {
    fn filled(size: u32) -> Result<Self> {
        let mut object = EbpfLoader::new()
            .map_max_entries("READINGS", size)
            .load(TWINS)
            .context("make the rivals' map")?;
        let mut map = object.take_map("READINGS").context("no map READINGS")?;
        let mut entries = PerCpuHashMap::<_, u32, Counts>::try_from(&mut map)?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        for pid in 0..size {
            let values = PerCpuValues::try_from(vec![[1; 4]; cpus])?;
            let filled = entries.insert(pid, values, 0);
            filled.context("fill the rivals' map")?;
        }
        Ok(Self {
            map,
            size,
            cpus,
            keys: vec![0; BATCH],
            values: vec![[0; 4]; BATCH * cpus],
        })
    }

    fn by_keys(&self) -> Result<Counts> {
        let mut sum = Counts::default();
        let mut read = 0;
        let entries = PerCpuHashMap::<_, u32, Counts>::try_from(&self.map)?;
        for entry in entries.iter() {
            let (_, values) = entry.context("read the next key")?;
            values.iter().for_each(|value| add(&mut sum, value));
            read += 1;
        }
        self.all(read, sum)
    }

    fn by_batches(&mut self) -> Result<Counts> {
        let mut sum = Counts::default();
        let mut read = 0;
        let Map::PerCpuHashMap(map) = &self.map else {
            bail!("the rivals' map is of another type");
        };
        let map = map.fd().as_fd();
        sys::each_entry(
            map,
            &mut self.keys,
            &mut self.values,
            self.cpus,
            |_, values| {
                values.iter().for_each(|value| add(&mut sum, value));
                read += 1;
            },
        )
        .context("read a batch")?;
        self.all(read, sum)
    }

    fn all(&self, read: u32, sum: Counts) -> Result<Counts> {
        ensure!(read == self.size, "read {read} of {} entries", self.size);
        Ok(sum)
    }
}

/// As many counters in this process's own memory.
struct Memory {
    banks: Vec<Vec<Counts>>,
}

impl Memory {
    fn new(size: u32) -> Result<Self> {
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        Ok(Self {
            banks: vec![vec![[1; 4]; size as usize]; cpus],
        })
    }

    fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for bank in black_box(&self.banks) {
            bank.iter().for_each(|value| add(&mut sum, value));
        }
        sum
    }
}

fn add(sum: &mut Counts, value: &Counts) {
    for (sum, value) in sum.iter_mut().zip(value) {
        *sum = sum.wrapping_add(*value);
    }
}
