//! What becomes of ticks when clocks step, and machines stand still.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::hub::Since;

const HOUR: Duration = Duration::from_secs(3600);
/// tokio's timers are this coarse.
const TIMER: Duration = Duration::from_millis(2);
/// How many ticks are read, and before which of them something happens.
const TICKS: u64 = 12;
const DISTURBED: usize = 5;

/// Ticks as they came.
struct Read {
    bench: Bench,
    ticks: Vec<v1::SubscribeResponse>,
}

/// The ticks of a process that sends all the while, with this in between. What must
/// be true of them whatever it is has been checked.
async fn read(disturb: impl AsyncFn(&FakeClock)) -> Read {
    let mut bench = bench();
    let mut before = Instant::now();
    bench.processes.start(7, 1);
    let standing = Order {
        lease_ttl: None,
        ..bench.order(7)
    };
    bench.commands.watch(standing).await.unwrap();
    let mut ticks = Vec::new();
    let mut total = 0;
    for number in 1..=TICKS {
        let sent = 1_000_000 + number;
        bench.kernel.traffic(7, sent, 0);
        total += sent;
        advance(SECOND / 10).await;
        if number == DISTURBED as u64 {
            disturb(&bench.clock).await;
        }
        let tick = bench.tick().await;
        let now = Instant::now();

        assert_eq!((tick.sequence, tick.skipped_ticks), (number, 0));
        assert_eq!(interval(&tick), now - before);
        // So no rate is twice as much as it is.
        assert!(interval(&tick) > SECOND / 2, "{tick:?}");
        let [sample] = tick.samples.as_slice() else {
            panic!("{tick:?}");
        };
        assert_eq!((sample.sent_bytes, sample.sent_bytes_total), (sent, total));
        before = now;
        ticks.push(tick);
    }
    // The one that was due already may be out of step, those that follow are not.
    for tick in &ticks[DISTURBED..] {
        let past = wall(tick)
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        assert!(Duration::from_nanos(past.into()) < TIMER, "{tick:?}");
        assert!(interval(tick) < 2 * SECOND, "{tick:?}");
    }
    Read { bench, ticks }
}

fn wall(tick: &v1::SubscribeResponse) -> SystemTime {
    tick.time.unwrap().try_into().unwrap()
}

fn sequences(ticks: &[v1::SubscribeResponse]) -> Vec<u64> {
    ticks.iter().map(|tick| tick.sequence).collect()
}

impl Read {
    /// The first tick that may tell of what happened.
    fn disturbed(&self) -> &v1::SubscribeResponse {
        &self.ticks[DISTURBED - 1]
    }

    async fn missed_ticks(&self) -> u64 {
        self.bench.commands.vitals().await.unwrap().missed_ticks
    }

    /// The sequences of the ticks that the history has from there on.
    async fn since(&self, since: Since) -> Vec<u64> {
        let wanted = Wanted {
            since: Some(since),
            ..Wanted::default()
        };
        let mut past = self.bench.hub.subscribe(wanted).unwrap();
        let mut sequences = Vec::new();
        while let Ok(message) = tokio::time::timeout(Duration::ZERO, past.next()).await {
            let bytes = message.unwrap().encode_to_vec();
            let tick = v1::SubscribeResponse::decode(bytes.as_slice()).unwrap();
            sequences.push(tick.sequence);
        }
        sequences
    }

    /// The history from a wall-clock time on begins with the first tick of that time
    /// or later, and has all that came after it, whatever time it was by then.
    async fn check_history(&self) {
        let all = sequences(&self.ticks);
        assert_eq!(self.since(Since::After(0)).await, all);
        for time in self.ticks.iter().map(wall) {
            for time in [time - SECOND / 3, time, time + SECOND / 3] {
                let first = self.ticks.iter().position(|tick| wall(tick) >= time);
                let expected = &all[first.unwrap_or(all.len())..];
                assert_eq!(self.since(Since::Time(time)).await, expected, "{time:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fault_23_a_wall_clock_that_steps_changes_no_interval() {
    for step in [0.2, 0.9, 1.0, 3600.7, 3.0 * 3600.0] {
        let step = Duration::from_secs_f64(step);
        for forward in [true, false] {
            let read = read(async |clock| {
                let wall = clock.wall();
                clock.set(if forward { wall + step } else { wall - step }, 1.0);
            })
            .await;
            assert!(about(interval(read.disturbed()), 1_000));
            assert_eq!(read.missed_ticks().await, 0);
            read.check_history().await;
        }
    }
}

/// The wall clock goes on by hours while the monotonic one stands still.
#[tokio::test(start_paused = true)]
async fn fault_23_a_machine_that_was_suspended_goes_on_where_it_was() {
    for asleep in [HOUR / 3, 7 * HOUR + SECOND / 3] {
        let read = read(async |clock| clock.set(clock.wall() + asleep, 1.0)).await;
        let tick = read.disturbed();
        assert!(wall(tick) > wall(&read.ticks[DISTURBED - 2]) + asleep);
        assert!(about(interval(tick), 1_000), "{tick:?}");
        assert_eq!(read.missed_ticks().await, 0);
        read.check_history().await;
    }
}

/// Both clocks go on by hours while nothing runs.
#[tokio::test(start_paused = true)]
async fn fault_23_a_virtual_machine_that_was_paused_tells_the_whole_time() {
    let paused = 7 * HOUR + SECOND / 3;
    let read = read(async |_| advance(paused).await).await;
    let late = read.disturbed();
    let told = interval(late);
    assert!(told > paused && told < paused + SECOND, "{told:?}");
    assert_eq!(read.missed_ticks().await, paused.as_secs() - 1);
    // What the history had before is too old by then.
    let kept = read.since(Since::Time(UNIX_EPOCH)).await;
    assert_eq!(kept, sequences(&read.ticks[DISTURBED - 1..]));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_machine_has_fewer_ticks_and_all_bytes() {
    for (late, missed) in [(0.6, 1), (1.4, 1), (3.2, 3)] {
        let late = SECOND.mul_f64(late);
        let read = read(async |_| advance(SECOND * 9 / 10 + late).await).await;
        let told = interval(read.disturbed());
        assert!(told.abs_diff(SECOND + late) <= TIMER, "{told:?}");
        assert_eq!(read.missed_ticks().await, missed);
        read.check_history().await;
    }
}
