//! The calls that are measured: 64 bytes sent and received on a loopback
//! connection, both ends in one thread. Nobody waits for anybody, so what takes
//! time is the two calls.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Barrier,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};

use crate::machine;

/// Bytes of one call.
pub(super) const BYTES: usize = 64;

/// How much is measured in a round.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Pairs of calls in one batch.
    pub(super) pairs: u32,
    /// Batches, of which the fastest counts: the others were disturbed.
    pub(super) batches: u32,
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

    fn exchange(&mut self, pairs: u32) -> Result<()> {
        for _ in 0..pairs {
            self.near.write_all(&self.buffer).context("send")?;
            self.far.read_exact(&mut self.buffer).context("receive")?;
        }
        Ok(())
    }

    /// Nanoseconds for each pair of calls.
    fn time(&mut self, pairs: u32) -> Result<f64> {
        let start = Instant::now();
        self.exchange(pairs)?;
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
        pair.exchange(effort.pairs / 10 + 1)?;
        Ok(pair)
    });
    let mut figures = Vec::new();
    for _ in 0..effort.batches {
        // Also if this thread has failed: the others wait for it.
        start.wait();
        if let Ok(pair) = &mut ready {
            match pair.time(effort.pairs) {
                Ok(figure) => figures.push(figure),
                Err(error) => ready = Err(error),
            }
        }
    }
    ready.map(|_| figures)
}
