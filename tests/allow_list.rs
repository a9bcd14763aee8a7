//! Random watches, ends of watches, forks, exits and leases that run out, by
//! several owners, on real processes and the real allow-list in the kernel,
//! against a model that is too simple to be wrong: after each step the kernel's
//! list is the model's, and nothing is counted twice or lost.
//!
//! A run that fails is repeated by NETIO_SEED=N.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use aya::maps::{Array, Map, MapData, loaded_maps};
use netio::v1::{
    NetIoSample, ProcessState, RenewWatchesRequest, SubscribeRequest, SubscribeResponse, Target,
    WatchRequest, net_io_service_client::NetIoServiceClient, watch_request::Life,
};
use netio_abi::NO_SLOT;
use support::{Collector, Result, next_tick, puppets::Puppets, servers::free_address, skip};
use tonic::{Code, Streaming, transport::Channel};

type Client = NetIoServiceClient<Channel>;

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const STEPS: usize = 100;
/// Processes that run at once.
const MAX_PROCESSES: usize = 24;
const TTL: Duration = Duration::from_secs(2);

/// xorshift: the same seed gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn any<T: Copy>(&mut self, of: impl Iterator<Item = T>) -> Option<T> {
        let all: Vec<T> = of.collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }
}

/// A process as the model sees it: a pid alone may be used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    birth: usize,
}

struct Watch {
    owner: usize,
    follows: bool,
    is_leased: bool,
    members: BTreeSet<Process>,
    sent: u64,
}

struct Run {
    random: Random,
    puppets: Puppets,
    /// Who runs, and who their parents are.
    running: BTreeMap<Process, Option<Process>>,
    /// Pids that were used and are free.
    free: BTreeSet<u32>,
    /// Pids that exited and were not free when last looked at.
    gone: Vec<u32>,
    /// Children that had another's pid before.
    reused: usize,
    /// Whether there is not room for all.
    is_limited: bool,
    births: usize,
    watches: BTreeMap<String, Watch>,
    clients: [Client; 2],
    ticks: Streaming<SubscribeResponse>,
    list: AllowList,
    /// No process of this run ever had a higher pid.
    highest: u32,
}

/// The map in the kernel, read by system calls.
struct AllowList(Array<MapData, [u32; 2]>);

impl AllowList {
    /// This collector's: others may run beside it.
    fn of(collector: &Collector) -> Result<Self> {
        let own = collector.maps()?;
        for map in loaded_maps() {
            let map = map?;
            if map.name_as_str() == Some("ALLOW_LIST") && own.contains(&map.id()) {
                let map = Map::Array(MapData::from_id(map.id())?);
                return Ok(Self(Array::try_from(map)?));
            }
        }
        Err("the collector has no allow-list".into())
    }

    /// Those that are on it, of all `below` this one.
    fn pids(&self, below: u32) -> Result<BTreeSet<u32>> {
        let mut pids = BTreeSet::new();
        for pid in 0..below.min(self.0.len()) {
            // One generation of programs uses one of the words.
            if self.0.get(&pid, 0)? != [NO_SLOT; 2] {
                pids.insert(pid);
            }
        }
        Ok(pids)
    }
}

impl Run {
    async fn begin(
        seed: u64,
        collector: &Collector,
        other_owner: &str,
        is_limited: bool,
    ) -> Result<Self> {
        let mut first = collector.connect().await?;
        let second = Client::connect(other_owner.to_owned()).await?;
        let ticks = first.subscribe(SubscribeRequest::default()).await?;
        let mut run = Self {
            random: Random(seed),
            puppets: Puppets::new()?,
            running: BTreeMap::new(),
            free: BTreeSet::new(),
            gone: Vec::new(),
            reused: 0,
            is_limited,
            births: 0,
            watches: BTreeMap::new(),
            clients: [first, second],
            ticks: ticks.into_inner(),
            list: AllowList::of(collector)?,
            highest: 0,
        };
        for _ in 0..4 {
            run.start()?;
        }
        Ok(run)
    }

    fn start(&mut self) -> Result {
        let pid = self.puppets.start()?;
        self.born(pid, None);
        Ok(())
    }

    fn born(&mut self, pid: u32, parent: Option<Process>) -> Process {
        self.births += 1;
        self.free.remove(&pid);
        self.highest = self.highest.max(pid);
        let process = Process {
            pid,
            birth: self.births,
        };
        self.running.insert(process, parent);
        process
    }

    /// Three run at least.
    fn any(&mut self) -> Process {
        let nth = self.random.below(self.running.len());
        let mut all = self.running.keys().copied();
        all.nth(nth).unwrap_or(Process { pid: 0, birth: 0 })
    }

    async fn step(&mut self) -> Result {
        match self.random.below(20) {
            0..=3 => self.watch().await?,
            4 | 5 => self.unwatch().await?,
            6..=10 => self.fork()?,
            11..=13 => self.exit()?,
            14..=18 => self.send()?,
            _ if self.random.below(4) == 0 => self.leases_run_out().await?,
            _ => self.tick().await?,
        }
        self.renew().await?;
        let members = self.watches.values().flat_map(|it| &it.members);
        let expected: BTreeSet<u32> = members.map(|it| it.pid).collect();
        assert_eq!(
            self.list.pids(self.highest + 1)?,
            expected,
            "the kernel's list, the model's"
        );
        Ok(())
    }

    async fn watch(&mut self) -> Result {
        let process = self.any();
        let owner = self.random.below(self.clients.len());
        let follows = self.random.below(2) == 0;
        let is_leased = self.random.below(2) == 0;
        let life = if is_leased {
            Life::LeaseTtl(TTL.try_into()?)
        } else {
            Life::Standing(true)
        };
        let target = Target::pid(process.pid).following_children(follows);
        let request = WatchRequest {
            life: Some(life),
            ..WatchRequest::new(target)
        };
        let watch = match self.clients[owner].watch(request).await {
            Ok(answer) => answer.into_inner().watch.ok_or("no watch")?,
            // Nothing is left of it, as the list shows.
            Err(refused) if self.is_limited && refused.code() == Code::ResourceExhausted => {
                return Ok(());
            }
            Err(refused) => return Err(refused.into()),
        };
        let mut members = BTreeSet::from([process]);
        if follows {
            self.add_descendants(process, &mut members);
        }
        assert_eq!(watch.process_count as usize, members.len());
        let watch_as_modelled = Watch {
            owner,
            follows,
            is_leased,
            members,
            sent: 0,
        };
        self.watches.insert(watch.watch_id, watch_as_modelled);
        Ok(())
    }

    fn add_descendants(&self, of: Process, to: &mut BTreeSet<Process>) {
        for (child, parent) in &self.running {
            if *parent == Some(of) && to.insert(*child) {
                self.add_descendants(*child, to);
            }
        }
    }

    async fn unwatch(&mut self) -> Result {
        let ids: Vec<String> = self.watches.keys().cloned().collect();
        let Some(index) = self.random.any(0..ids.len()) else {
            return Ok(());
        };
        let id = &ids[index];
        let asking = self.random.below(self.clients.len());
        // The first client is root on the Unix socket, and so an admin.
        let may_end = asking == 0 || asking == self.watches[id].owner;
        let selector = Some(netio::v1::unwatch_request::Selector::WatchId(id.clone()));
        let request = netio::v1::UnwatchRequest { selector };
        let answer = self.clients[asking].unwatch(request).await;
        if self.watches[id].members.is_empty() {
            // It ends by itself, now or soon.
            answer.ok();
        } else {
            assert_eq!(answer.is_ok(), may_end);
        }
        if may_end {
            self.watches.remove(id);
        }
        Ok(())
    }

    fn fork(&mut self) -> Result {
        if self.running.len() >= MAX_PROCESSES {
            return Ok(());
        }
        let parent = self.any();
        let reused = self.random.any(self.free.clone().into_iter());
        let pid = reused.filter(|_| self.random.below(2) == 0);
        if pid.is_some() {
            self.reused += 1;
            // A process is told from the one before by its start time, in steps
            // of 10 ms.
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = self.puppets.fork(parent.pid, pid)?;
        let child = self.born(pid, Some(parent));
        for watch in self.watches.values_mut() {
            if watch.follows && watch.members.contains(&parent) {
                watch.members.insert(child);
            }
        }
        Ok(())
    }

    fn exit(&mut self) -> Result {
        let gone = self.any();
        self.puppets.exit(gone.pid)?;
        self.running.remove(&gone);
        for watch in self.watches.values_mut() {
            watch.members.remove(&gone);
        }
        for parent in self.running.values_mut() {
            // Its children are orphans now.
            if *parent == Some(gone) {
                *parent = None;
            }
        }
        // Free once it was waited for, which its parent does after an order.
        self.gone.push(gone.pid);
        let (there, free) = self.gone.iter().partition(|pid| is_there(**pid));
        self.gone = there;
        self.free.extend(&free as &Vec<u32>);
        if self.running.len() < 3 {
            self.start()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result {
        let process = self.any();
        let bytes = 1 + self.random.below(5000) as u64;
        self.puppets.send(process.pid, bytes)?;
        for watch in self.watches.values_mut() {
            if watch.members.contains(&process) {
                watch.sent += bytes;
            }
        }
        Ok(())
    }

    /// No lease runs out unless the run wants it.
    async fn renew(&mut self) -> Result {
        for owner in 0..self.clients.len() {
            let own = self.watches.iter().filter(|(_, watch)| {
                watch.owner == owner && watch.is_leased && !watch.members.is_empty()
            });
            let watch_ids: Vec<String> = own.map(|(id, _)| id.clone()).collect();
            let request = RenewWatchesRequest { watch_ids };
            self.clients[owner].renew_watches(request).await?;
        }
        Ok(())
    }

    async fn leases_run_out(&mut self) -> Result {
        tokio::time::sleep(TTL + Duration::from_millis(100)).await;
        self.watches.retain(|_, watch| !watch.is_leased);
        // Nothing is left unread, lest ticks be skipped unseen.
        self.tick().await
    }

    /// Compares what a tick tells that was read after all that was done.
    async fn tick(&mut self) -> Result {
        let now = std::time::SystemTime::now();
        let (mut after, mut samples) = (0, BTreeMap::<String, NetIoSample>::new());
        while after < 2 {
            let tick = next_tick(&mut self.ticks).await?;
            let read = std::time::SystemTime::try_from(tick.time.ok_or("no time")?)?;
            after += usize::from(read > now);
            let told = tick.samples.into_iter();
            samples.extend(told.map(|sample| (sample.watch_id.clone(), sample)));
        }
        for (id, watch) in &self.watches {
            // A watch without processes may have had its last sample before.
            let Some(sample) = samples.get(id) else {
                assert!(watch.members.is_empty(), "no sample of {id}");
                continue;
            };
            assert_eq!(sample.sent_bytes_total, watch.sent, "{sample:?}");
            let has_ended = sample.state() == ProcessState::Exited;
            assert_eq!(has_ended, watch.members.is_empty(), "{sample:?}");
        }
        self.watches.retain(|_, watch| !watch.members.is_empty());
        Ok(())
    }
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// How many pids were used again.
async fn run(seed: u64, arguments: &[&str]) -> Result<usize> {
    eprintln!("NETIO_SEED={seed}");
    // A second owner calls over TCP.
    let address = free_address()?;
    let tcp = format!("tcp://{address}");
    let arguments = [&["--interval", "100ms", "--listen", &tcp], arguments].concat();
    let collector = Collector::start(&arguments)?;
    let other_owner = format!("http://{address}");
    let is_limited = arguments.contains(&"--max-processes");
    let mut run = Run::begin(seed, &collector, &other_owner, is_limited).await?;
    for _ in 0..STEPS {
        run.step().await?;
    }
    run.tick().await?;
    Ok(run.reused)
}

fn seeds() -> Vec<u64> {
    let given = env::var("NETIO_SEED").ok();
    given.map_or_else(|| SEEDS.to_vec(), |seed| seed.parse().into_iter().collect())
}

#[tokio::test]
async fn fault_17_the_kernels_list_is_the_models_and_every_byte_is_counted_once() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let mut reused = 0;
    for seed in seeds() {
        reused += run(seed, &[]).await?;
    }
    assert!(reused > 0, "no pid was used again");
    eprintln!("{reused} pids were used again");
    Ok(())
}

/// Where there is no room for all.
#[tokio::test]
async fn fault_12_a_refusal_for_want_of_room_leaves_the_kernels_list_as_it_was() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    for seed in seeds() {
        run(seed, &["--max-processes", "6"]).await?;
    }
    Ok(())
}
