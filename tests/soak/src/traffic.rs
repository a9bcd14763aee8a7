//! Processes whose every byte is known: some that live as long as the soak, and
//! short-lived ones, for clients to watch and to lose.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Result, puppets::Puppets, random::Random};

/// Processes that are watched all the while.
const LONG_LIVED: usize = 4;
/// The others that live at a time.
const SHORT_LIVED: usize = 64;
/// Between two rounds, in each of which one of the others is born.
const ROUND: Duration = Duration::from_millis(50);
/// In one call.
const MOST_BYTES: u64 = 40_000;

/// The pids of processes that live for a moment.
#[derive(Clone, Default)]
pub(crate) struct Pids(Arc<Mutex<Vec<u32>>>);

impl Pids {
    /// One of them; it may have gone when it is used.
    pub(crate) fn any(&self, random: &mut Random) -> Option<u32> {
        random.any(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, pids: Vec<u32>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }
}

/// What each process has sent, by pid.
pub(crate) type Sent = BTreeMap<u32, u64>;

/// See the module. The processes exit when it has stopped.
pub(crate) struct Traffic {
    long_lived: Vec<u32>,
    short_lived: Pids,
    begin: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// It gives the processes back, so that they live until the truth is compared.
    thread: JoinHandle<Result<(Sent, Puppets)>>,
}

impl Traffic {
    /// The processes are there, and send nothing before [`Traffic::begin`].
    pub(crate) fn start(seed: u64) -> Result<Self> {
        let mut puppets = Puppets::new()?;
        let mut long_lived = Vec::new();
        for _ in 0..LONG_LIVED {
            long_lived.push(puppets.start()?);
        }
        let nursery = puppets.start()?;
        let begin = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let short_lived = Pids::default();
        let rounds = Rounds {
            puppets,
            long_lived: long_lived.clone(),
            nursery,
            short_lived: short_lived.clone(),
            random: Random::new(seed, u64::MAX),
        };
        let thread = thread::spawn({
            let (begin, stop) = (Arc::clone(&begin), Arc::clone(&stop));
            move || {
                while !begin.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                    thread::sleep(ROUND);
                }
                rounds.run(&stop)
            }
        });
        Ok(Self {
            long_lived,
            short_lived,
            begin,
            stop,
            thread,
        })
    }

    /// The processes that stay.
    pub(crate) fn steady(&self) -> &[u32] {
        &self.long_lived
    }

    /// Whoever is to be watched is watched.
    pub(crate) fn begin(&self) {
        self.begin.store(true, Ordering::Relaxed);
    }

    pub(crate) fn short_lived(&self) -> Pids {
        self.short_lived.clone()
    }

    pub(crate) fn must_be_well(&self) -> Result {
        if self.thread.is_finished() {
            return Err("the traffic has ended early".into());
        }
        Ok(())
    }

    /// Ends the traffic; what the processes that stay have sent, and they themselves.
    pub(crate) fn stop(self) -> Result<Truth> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        let (sent, puppets) = ended.map_err(|_| "the traffic panicked")??;
        Ok(Truth {
            sent,
            _puppets: puppets,
        })
    }
}

/// What was sent by processes that are there as long as this.
pub(crate) struct Truth {
    pub(crate) sent: Sent,
    _puppets: Puppets,
}

struct Rounds {
    puppets: Puppets,
    long_lived: Vec<u32>,
    nursery: u32,
    short_lived: Pids,
    random: Random,
}

impl Rounds {
    fn run(mut self, stop: &AtomicBool) -> Result<(Sent, Puppets)> {
        let mut sent: Sent = self.long_lived.iter().map(|pid| (*pid, 0)).collect();
        let mut alive = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            for (pid, sent) in &mut sent {
                let bytes = 1 + self.random.below(MOST_BYTES);
                self.puppets.send(*pid, bytes)?;
                *sent += bytes;
            }
            let child = self.puppets.fork(self.nursery, None)?;
            self.puppets.send(child, 1 + self.random.below(1_000))?;
            alive.push_back(child);
            if alive.len() > SHORT_LIVED
                && let Some(oldest) = alive.pop_front()
            {
                self.puppets.exit(oldest)?;
            }
            self.short_lived.set(alive.iter().copied().collect());
            thread::sleep(ROUND);
        }
        Ok((sent, self.puppets))
    }
}
