//! How soon a watch counts.
//!
//! A thread of this process sends and receives all the while and notes the time
//! of each send. What the watch counted in the end, taken from what was sent in the
//! end, is where counting began. Everything that was sent after Watch had returned
//! must be in it, or the benchmark fails.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use netio::v1::{SubscribeRequest, net_io_service_client::NetIoServiceClient};
use tonic::transport::Channel;

use super::{unwatch, watch};
use crate::{report::Section, rounds::Rounds};

const BYTES: usize = 64;
/// Between two sends: steady, but not all of a CPU.
const PAUSE: Duration = Duration::from_micros(20);
/// How long it goes on when Watch has returned.
const AFTERWARDS: Duration = Duration::from_millis(5);

pub(super) async fn section(channel: Channel, rounds: usize) -> Result<Section> {
    let mut client = NetIoServiceClient::new(channel);
    let [mut returned, mut counted] = [(); 2].map(|()| Rounds::default());
    for _ in 0..rounds {
        let sender = Sender::start()?;
        tokio::time::sleep(AFTERWARDS).await;
        let call = Instant::now();
        let id = watch(&mut client, std::process::id()).await?;
        let back = Instant::now();
        tokio::time::sleep(AFTERWARDS).await;
        let sends = sender.stop()?;
        let total = total(&mut client, &id).await?;
        unwatch(&mut client, id).await?;

        let first = first_counted(&sends, total, back)?;
        returned.push((back - call).as_secs_f64() * 1e6);
        counted.push(first.saturating_duration_since(call).as_secs_f64() * 1e6);
    }
    let mut section = Section::new(
        "from the call of Watch, of a process that sends steadily: µs",
        &["median", "p99"],
    );
    for (side, rounds) in [
        ("until the first counted send began", &counted),
        ("until Watch has returned", &returned),
    ] {
        let p99: Rounds = [rounds.quantile(0.99)].into_iter().collect();
        section.row(side, &[Some(rounds), Some(&p99)]);
    }
    section.note(format!(
        "In {} of {} rounds every byte that was sent after Watch had returned was counted.",
        returned.len(),
        rounds
    ));
    Ok(section)
}

/// When the first counted send began; fails if one that began after `back` was not
/// counted.
fn first_counted(sends: &[Instant], total: u64, back: Instant) -> Result<Instant> {
    let counted = usize::try_from(total)? / BYTES;
    ensure!(
        total.is_multiple_of(BYTES as u64) && counted <= sends.len(),
        "{total} bytes were counted of {} sends of {BYTES} bytes",
        sends.len()
    );
    let Some(first) = sends.get(sends.len() - counted) else {
        bail!("no byte was counted");
    };
    let after = sends.iter().filter(|begun| **begun > back).count();
    ensure!(
        after <= counted,
        "{} sends after Watch had returned were not counted",
        after - counted
    );
    Ok(*first)
}

/// What the watch has counted at a tick that was read after this call.
async fn total(client: &mut NetIoServiceClient<Channel>, id: &str) -> Result<u64> {
    let now = SystemTime::now();
    let request = SubscribeRequest::new(vec![id.to_owned()]);
    let mut ticks = client
        .subscribe(request)
        .await
        .context("Subscribe")?
        .into_inner();
    loop {
        let tick = ticks.message().await.context("a tick")?;
        let tick = tick.context("the stream ended")?;
        let time = tick.time.and_then(|time| SystemTime::try_from(time).ok());
        if time.is_some_and(|time| time > now) {
            let sample = tick.samples.first().context("a tick without a sample")?;
            return Ok(sample.sent_bytes_total);
        }
    }
}

/// The thread that sends.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Vec<Instant>>>,
}

impl Sender {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sends = Vec::with_capacity(4096);
            let mut buffer = [0; BYTES];
            while !stopped.load(Relaxed) {
                sends.push(Instant::now());
                near.write_all(&buffer)?;
                far.read_exact(&mut buffer)?;
                thread::sleep(PAUSE);
            }
            Ok(sends)
        });
        Ok(Self { stop, thread })
    }

    /// When each send began.
    fn stop(self) -> Result<Vec<Instant>> {
        self.stop.store(true, Relaxed);
        let sends = self.thread.join();
        sends
            .map_err(|_| anyhow!("the sender panicked"))?
            .context("send on loopback")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_counting_began_is_found_from_the_end() {
        let start = Instant::now();
        let sends: Vec<_> = (0..4).map(|n| start + Duration::from_secs(n)).collect();
        let found =
            |total, back: u64| first_counted(&sends, total, start + Duration::from_secs(back));
        assert_eq!(found(128, 2).unwrap(), sends[2]);
        assert!(found(64, 1).is_err(), "one after Watch is missing");
        assert!(found(65, 3).is_err(), "half a send");
        assert!(found(0, 3).is_err(), "nothing");
        assert!(found(320, 3).is_err(), "more than was sent");
    }
}
