//! What can be attached to be measured: twins, the tutorial's own program, and
//! netio itself by [`netio_collector::probe::attach`], as the service does it.

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{Program, ProgramError},
};
use netio_collector::{
    Limits,
    kernel::{Kernel, ProcessId, Slot},
    probe::{self, HookChoice, Keeping, ProbeOptions},
};

use crate::CannotRun;

static TWINS: &[u8] = aya::include_bytes_aligned!("../../bpf/twins.bpf.o");
static TUTORIAL: &[u8] = aya::include_bytes_aligned!("../../../accuracy/bpf/tutorial.bpf.o");

/// A program of an object, and the tracepoint or function that it goes to.
pub(super) type Hook = (&'static str, &'static str);

/// What is attached during a measurement.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Nothing,
    /// Programs of the twins' object.
    Twin(&'static [Hook]),
    /// The tutorial's real program.
    Tutorial,
    Ours(HookChoice),
}

pub(super) const EMPTY: &[Hook] = &[
    ("empty_send", "sock_send_length"),
    ("empty_recv", "sock_recv_length"),
];
/// Where netio counts on a kernel that loads no trampolines.
pub(super) const EMPTY_AT_QUEUE: &[Hook] = &[
    ("empty_send", "sock_send_length"),
    ("empty_recv", "sock_recv_length"),
    ("empty_read", "tcp_rcv_space_adjust"),
];
pub(super) const TUTORIAL_BODY: &[Hook] = &[
    ("tutorial_send", "sock_send_length"),
    ("tutorial_recv", "sock_recv_length"),
];
pub(super) const TCPTOP_BODY: &[Hook] = &[
    ("tcptop_send", "sock_send_length"),
    ("tcptop_recv", "sock_recv_length"),
];
pub(super) const LRU_BODY: &[Hook] = &[
    ("lru_send", "sock_send_length"),
    ("lru_recv", "sock_recv_length"),
];
pub(super) const HASH_BODY: &[Hook] = &[
    ("hash_send", "sock_send_length"),
    ("hash_recv", "sock_recv_length"),
];
pub(super) const EMPTY_EXIT: &[Hook] = &[
    ("empty_exit_send", "inet_sendmsg"),
    ("empty_exit_recv", "inet_recvmsg"),
];
pub(super) const EMPTY_EXIT_OF_TCP: &[Hook] = &[
    ("empty_exit_send", "tcp_sendmsg"),
    ("empty_exit_recv", "tcp_recvmsg"),
];
pub(super) const EMPTY_PROBES: &[Hook] = &[
    ("empty_return", "tcp_sendmsg"),
    ("empty_entry", "tcp_cleanup_rbuf"),
];
const TUTORIAL_PROGRAM: &[Hook] = &[
    ("tutorial_tcp_sendmsg", "tcp_sendmsg"),
    ("tutorial_cleanup_rbuf", "tcp_cleanup_rbuf"),
];

impl Side {
    /// Attaches it; it counts nobody yet.
    pub(super) fn attach(self, types: &Btf) -> Result<Attached> {
        Ok(match self {
            Self::Nothing => Attached::Nothing,
            Self::Twin(hooks) => Attached::Programs(programs(TWINS, hooks, types)?),
            Self::Tutorial => Attached::Programs(programs(TUTORIAL, TUTORIAL_PROGRAM, types)?),
            Self::Ours(hooks) => Attached::Ours(Ours::attach(hooks)?),
        })
    }
}

/// Detached when dropped.
pub(super) enum Attached {
    Nothing,
    Programs(Ebpf),
    Ours(Ours),
}

impl Attached {
    /// Counts this process from now on.
    pub(super) fn watch(&mut self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Programs(object) => {
                let pid = std::process::id();
                // Each object has a list of its own kind.
                if let Some(map) = object.map_mut("WATCHED") {
                    HashMap::<_, u32, u8>::try_from(map)?.insert(pid, 1, 0)?;
                }
                if let Some(map) = object.map_mut("SLOTS") {
                    HashMap::<_, u32, u32>::try_from(map)?.insert(pid, 1, 0)?;
                }
                Ok(())
            }
            Self::Ours(ours) => ours.watch(),
        }
    }

    /// The bytes that this process has sent, as far as netio is attached.
    pub(super) fn sent_bytes(&self) -> Option<u64> {
        match self {
            Self::Ours(ours) => ours.sent_bytes(),
            _ => None,
        }
    }
}

/// netio's probes.
pub(super) struct Ours {
    kernel: Box<dyn Kernel>,
    watched: Option<Slot>,
}

impl Ours {
    pub(super) fn attach(hooks: HookChoice) -> Result<Self> {
        let limits = Limits::default();
        let kernel = probe::attach(&ProbeOptions {
            hooks,
            limits,
            keeping: Keeping::Not("it is part of another program".to_owned()),
        });
        let info = kernel.info();
        if info.programs.is_empty() {
            let causes: Vec<_> = info.attempts.iter().map(|it| it.cause.as_str()).collect();
            let why = format!(
                "netio's {hooks} mode does not attach: {}",
                causes.join("; ")
            );
            return Err(CannotRun(why).into());
        }
        Ok(Self {
            kernel,
            watched: None,
        })
    }

    /// Whether receives are counted at the receive queue, by a program more.
    pub(super) fn is_at_queue(&self) -> bool {
        let mut programs = self.kernel.info().programs.iter();
        programs.any(|program| program.hook == "tp_btf/tcp_rcv_space_adjust")
    }

    fn watch(&mut self) -> Result<()> {
        let slot = self.kernel.take().context("no slot is free")?;
        let process = ProcessId {
            tgid: std::process::id(),
            start_time_ns: 0,
        };
        self.kernel.allow(process, slot, None)?;
        self.watched = Some(slot);
        Ok(())
    }

    fn sent_bytes(&self) -> Option<u64> {
        self.watched.map(|slot| self.kernel.read(slot).sent_bytes)
    }
}

fn programs(object: &[u8], hooks: &[Hook], types: &Btf) -> Result<Ebpf> {
    let mut object = EbpfLoader::new()
        .btf(Some(types))
        .load(object)
        .context("load a twin's object")?;
    for &(name, place) in hooks {
        attach(&mut object, name, place, types)
            .with_context(|| format!("attach {name} to {place}"))?;
    }
    Ok(object)
}

fn attach(object: &mut Ebpf, name: &str, place: &str, types: &Btf) -> Result<()> {
    let program = object.program_mut(name).context("no such program")?;
    match program {
        Program::BtfTracePoint(program) => {
            refused(program.load(place, types))?;
            program.attach()?;
        }
        Program::FExit(program) => {
            refused(program.load(place, types))?;
            program.attach()?;
        }
        Program::KProbe(program) => {
            refused(program.load())?;
            program.attach(place, 0)?;
        }
        _ => bail!("a program of another type"),
    }
    Ok(())
}

/// A kernel that refuses this kind of program is no failure of the benchmark.
fn refused(loaded: Result<(), ProgramError>) -> Result<()> {
    loaded.map_err(|error| CannotRun(format!("the kernel refuses the program: {error}")).into())
}
