//! Processes that send, fork and exit all the time, of which every byte is known.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Result, puppets::Puppets};

/// xorshift, as good as any.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Puppets that send, fork and exit all the time, as far as they are told to.
pub struct Load {
    pub puppets: Puppets,
    pub random: Random,
    /// Those that are to be busy, and the root of each.
    pub busy: BTreeMap<u32, u32>,
    /// What each root and its descendants have sent.
    pub sent: BTreeMap<u32, u64>,
    pub births: usize,
}

impl Load {
    /// A puppet that does nothing yet.
    pub fn start(&mut self) -> Result<u32> {
        let pid = self.puppets.start()?;
        self.sent.insert(pid, 0);
        Ok(pid)
    }

    fn step(&mut self) -> Result {
        let nth = self.random.below(self.busy.len().max(1) as u64) as usize;
        let Some((pid, root)) = self.busy.iter().nth(nth).map(|(pid, root)| (*pid, *root)) else {
            thread::sleep(Duration::from_millis(1));
            return Ok(());
        };
        match self.random.below(20) {
            0 if self.busy.len() < 24 => {
                let child = self.puppets.fork(pid, None)?;
                self.births += 1;
                self.busy.insert(child, root);
            }
            1 if pid != root => {
                self.busy.remove(&pid);
                self.puppets.exit(pid)?;
            }
            _ => {
                let bytes = 1 + self.random.below(5_000);
                self.puppets.send(pid, bytes)?;
                *self.sent.entry(root).or_default() += bytes;
            }
        }
        Ok(())
    }
}

/// Runs in a thread of its own until it is stopped.
pub struct Running {
    load: Arc<Mutex<Load>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(seed: u64) -> Result<Self> {
        let load = Load {
            puppets: Puppets::new()?,
            random: Random(seed),
            busy: BTreeMap::new(),
            sent: BTreeMap::new(),
            births: 0,
        };
        let (load, stop) = (Arc::new(Mutex::new(load)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (load, stop) = (Arc::clone(&load), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    locked(&load).step().expect("the puppets obey");
                }
            })
        };
        Ok(Self {
            load,
            stop,
            thread: Some(thread),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, Load> {
        locked(&self.load)
    }

    pub fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load runs to its end");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn locked(load: &Mutex<Load>) -> MutexGuard<'_, Load> {
    load.lock().unwrap_or_else(PoisonError::into_inner)
}
