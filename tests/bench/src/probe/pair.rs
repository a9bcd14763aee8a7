//! The calls that are measured: bytes sent and received on a loopback connection,
//! both ends in one thread. Nobody waits for anybody, so what takes time is the two
//! calls.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Barrier,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::net::{SendFlags, send};

use crate::machine;

/// What a pair of calls is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// 64 bytes are sent, and received, and so on.
    InTurn,
    /// A byte is sent [`TOGETHER`] times, to travel in one packet, then as many
    /// times a byte is received. Such calls take a tenth of the time: they do
    /// little else than what the programs are measured at.
    Together,
}

/// Calls before the other end has its turn.
const TOGETHER: u32 = 256;
/// Bytes of one call.
const BYTES: usize = 64;

/// How much is measured in a round.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    pub(super) calls: Calls,
    /// Pairs of calls in one batch.
    pub(super) pairs: u32,
    /// Batches, of which the fastest counts: the others were disturbed.
    pub(super) batches: u32,
}

impl Effort {
    /// Bytes that a thread sends in a measurement.
    pub(super) fn bytes(self) -> u64 {
        let pairs = self.warm_up() + self.pairs * self.batches;
        u64::from(pairs)
            * if self.calls == Calls::InTurn {
                BYTES as u64
            } else {
                1
            }
    }

    fn warm_up(self) -> u32 {
        (self.pairs / 10).next_multiple_of(TOGETHER)
    }
}

/// A connection's two ends.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    buffer: [u8; BYTES],
}

impl Pair {
    fn connect() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let near = TcpStream::connect(listener.local_addr()?).context("connect on loopback")?;
        let (far, _) = listener.accept().context("accept on loopback")?;
        near.set_nodelay(true)?;
        Ok(Self {
            near,
            far,
            buffer: [0; BYTES],
        })
    }

    fn exchange(&mut self, calls: Calls, pairs: u32) -> Result<()> {
        match calls {
            Calls::InTurn => {
                for _ in 0..pairs {
                    self.near.write_all(&self.buffer).context("send")?;
                    self.far.read_exact(&mut self.buffer).context("receive")?;
                }
            }
            Calls::Together => {
                for _ in 0..pairs / TOGETHER {
                    self.exchange_together()?;
                }
            }
        }
        Ok(())
    }

    fn exchange_together(&mut self) -> Result<()> {
        for left in (0..TOGETHER).rev() {
            let flags = if left > 0 {
                SendFlags::MORE
            } else {
                SendFlags::empty()
            };
            ensure!(send(&self.near, &[0], flags)? == 1, "a byte was not sent");
        }
        for _ in 0..TOGETHER {
            self.far.read_exact(&mut [0]).context("receive")?;
        }
        Ok(())
    }

    /// Nanoseconds for each pair of calls.
    fn time(&mut self, calls: Calls, pairs: u32) -> Result<f64> {
        let start = Instant::now();
        self.exchange(calls, pairs)?;
        Ok(start.elapsed().as_nanos() as f64 / f64::from(pairs))
    }
}

/// One figure: nanoseconds for each pair of calls, with a thread on each of these
/// CPUs. The connections are new, as a server's are to a program that has just
/// been attached.
pub(super) fn measure(cpus: &[usize], effort: Effort) -> Result<f64> {
    let start = Barrier::new(cpus.len());
    let figures = thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .map(|cpu| scope.spawn(|| batches(*cpu, &start, effort)))
            .collect();
        let ended = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a measuring thread panicked"))?
        });
        ended.collect::<Result<Vec<_>>>()
    })?;
    // Batch by batch over all threads, which ran at the same time.
    let batch = |number: usize| {
        let sum: f64 = figures.iter().filter_map(|thread| thread.get(number)).sum();
        sum / cpus.len() as f64
    };
    Ok((0..effort.batches as usize)
        .map(batch)
        .fold(f64::INFINITY, f64::min))
}

fn batches(cpu: usize, start: &Barrier, effort: Effort) -> Result<Vec<f64>> {
    let ready = machine::pin(cpu).and_then(|()| Pair::connect());
    let mut ready = ready.and_then(|mut pair| {
        pair.exchange(effort.calls, effort.warm_up())?;
        Ok(pair)
    });
    let mut figures = Vec::new();
    for _ in 0..effort.batches {
        // Also if this thread has failed: the others wait for it.
        start.wait();
        if let Ok(pair) = &mut ready {
            match pair.time(effort.calls, effort.pairs) {
                Ok(figure) => figures.push(figure),
                Err(error) => ready = Err(error),
            }
        }
    }
    ready.map(|_| figures)
}
