//! The tutorial's program, loaded and read the way the tutorial does it: a map
//! of watched processes, a map of their bytes.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use aya::programs::KProbe;
use netio_traffic::protocol::Bytes;

use crate::report::{About, Program, TUTORIAL};

/// The programs of the object and the kernel functions they go to. Which of them
/// is a kretprobe the object says itself.
const PROGRAMS: [(&str, &str); 2] = [
    ("tutorial_tcp_sendmsg", "tcp_sendmsg"),
    ("tutorial_cleanup_rbuf", "tcp_cleanup_rbuf"),
];

pub(crate) struct Tutorial {
    watched: HashMap<MapData, u32, u8>,
    /// Sent, received.
    traffic: HashMap<MapData, u32, [u64; 2]>,
    /// Its programs count until it is dropped.
    _programs: Ebpf,
}

/// The processes of one pattern and their bytes when the watch began.
pub(crate) struct Watched {
    before: Vec<(u32, Bytes)>,
}

impl Tutorial {
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let mut programs =
            Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
        for (name, function) in PROGRAMS {
            let program = programs.program_mut(name);
            let program = program.with_context(|| format!("the object has no program {name}"))?;
            let program: &mut KProbe = program.try_into()?;
            program
                .load()
                .with_context(|| format!("cannot load {name}"))?;
            program
                .attach(function, 0)
                .with_context(|| format!("cannot attach {name} to {function}"))?;
        }
        let mut map = |name| {
            let map = programs.take_map(name);
            map.with_context(|| format!("the object has no map {name}"))
        };
        Ok(Self {
            watched: HashMap::try_from(map("WATCHED")?).context("map WATCHED")?,
            traffic: HashMap::try_from(map("TRAFFIC")?).context("map TRAFFIC")?,
            _programs: programs,
        })
    }

    pub(crate) fn about() -> About {
        let uname = rustix::system::uname();
        About {
            mode: TUTORIAL.to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            programs: PROGRAMS
                .map(|(name, hook)| Program {
                    name: name.to_owned(),
                    hook: hook.to_owned(),
                })
                .into(),
            blind_spots: Vec::new(),
            attempts: Vec::new(),
        }
    }

    pub(crate) fn watch(&mut self, pids: &[u32]) -> Result<Watched> {
        let mut before = Vec::with_capacity(pids.len());
        for &pid in pids {
            before.push((pid, self.bytes(pid)?));
            self.watched.insert(pid, 1, 0).context("watch a process")?;
        }
        Ok(Watched { before })
    }

    pub(crate) fn totals(&self, watched: &Watched) -> Result<Vec<Bytes>> {
        let totals = watched.before.iter().map(|&(pid, before)| {
            let now = self.bytes(pid)?;
            Ok(Bytes {
                sent: now.sent - before.sent,
                received: now.received - before.received,
            })
        });
        totals.collect()
    }

    pub(crate) fn unwatch(&mut self, watched: &Watched) -> Result<()> {
        for (pid, _) in &watched.before {
            self.watched.remove(pid).context("unwatch a process")?;
        }
        Ok(())
    }

    fn bytes(&self, pid: u32) -> Result<Bytes> {
        match self.traffic.get(&pid, 0) {
            Ok([sent, received]) => Ok(Bytes { sent, received }),
            Err(MapError::KeyNotFound) => Ok(Bytes::default()),
            Err(error) => Err(error).context("read a process's bytes"),
        }
    }
}
