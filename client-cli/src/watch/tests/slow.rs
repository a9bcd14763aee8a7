//! Readers that are slow, stand still or leave.

use netio_collector::Listeners;
use tokio::io::{AsyncReadExt as _, duplex};
use tonic::transport::Endpoint;

use super::*;

#[tokio::test]
async fn stops_though_the_terminal_stands_still() {
    let bench = Bench::new();
    let idler = Idler::new();
    // Takes less than a line, and nobody reads.
    let (out, _reader) = duplex(16);
    let mut output = Output {
        out,
        err: Vec::new(),
    };
    let order = order_of(&[idler.pid()], None);
    let rpc = bench.rpc();
    let asked = async {
        bench.counts(idler.pid()).await;
        sleep(INTERVAL * 3).await;
        bench.stop.cancel();
    };
    let watching = run(&rpc, &order, View::Json, &mut output, &bench.stop);
    let (outcome, ()) = tokio::join!(watching, asked);
    assert_eq!(outcome, Ok(()));
    assert!(bench.counts_nothing());
}

#[tokio::test]
async fn ends_when_the_reader_leaves() {
    let bench = Bench::new();
    let idler = Idler::new();
    let (out, mut reader) = duplex(4096);
    let mut output = Output {
        out,
        err: Vec::new(),
    };
    let order = order_of(&[idler.pid()], None);
    let rpc = bench.rpc();
    let reading = async move { reader.read_u8().await };
    let watching = run(&rpc, &order, View::Json, &mut output, &bench.stop);
    let (outcome, read) = tokio::join!(watching, reading);
    assert!(read.is_ok());
    assert_eq!(outcome, Ok(()));
    assert!(bench.counts_nothing());
}

/// Room for about one tick on its way: a stream that is not read stands still
/// at once, and not after the hundreds of ticks that usually fit.
const NARROW_WINDOW: u32 = 128;

#[tokio::test]
async fn after_a_stall_the_totals_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("collector.sock");
    let kernel = FakeKernel::new(4096);
    let options = Options {
        interval: INTERVAL,
        ..Options::default()
    };
    let mut listeners = Listeners::new();
    listeners.bind_unix(&socket, None).unwrap();
    let stop = CancellationToken::new();
    let collector =
        netio_collector::run(Box::new(kernel.clone()), options, listeners, stop.clone());
    let collector = tokio::spawn(collector);
    let endpoint = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(endpoint.clone())
        .unwrap()
        .initial_stream_window_size(NARROW_WINDOW)
        .connect()
        .await
        .unwrap();
    let origin = Origin::Remote(endpoint.parse().unwrap());
    let rpc = Rpc::new(without_token(channel), origin, stop.clone());

    let mut idler = Idler::new();
    let pid = idler.pid();
    let (out, mut reader) = duplex(64);
    let mut output = Output {
        out,
        err: Vec::new(),
    };
    let order = order_of(&[pid], None);
    let watching = async {
        let outcome = run(&rpc, &order, View::Json, &mut output, &stop).await;
        // The reader waits for the end of what is written.
        drop(output.out);
        (outcome, String::from_utf8(output.err).unwrap())
    };
    let mut lines = Vec::new();
    let reading = async {
        until(|| kernel.with(|state| state.allowed.contains_key(&pid))).await;
        for _ in 0..30 {
            kernel.traffic(pid, 10, 10);
            sleep(INTERVAL / 2).await;
        }
        // Its last sample is in a tick that is skipped too.
        idler.end();
        sleep(INTERVAL * 3).await;
        reader.read_to_end(&mut lines).await.unwrap();
    };
    let ((outcome, notes), ()) = tokio::join!(watching, reading);
    assert_eq!(outcome, Ok(()));
    let lines = parse(&lines);
    let skipped: u64 = column(&lines[1..], "skipped_ticks").iter().sum();
    assert!(skipped > 0, "nothing stalled");
    let sequences = column(&lines, "sequence");
    let told = lines.len() as u64 + skipped;
    assert_eq!(told, sequences[lines.len() - 1] - sequences[0] + 1);
    assert_eq!(lines[lines.len() - 1]["sent_bytes_total"], 300);
    assert_eq!(lines[lines.len() - 1]["state"], "exited");
    assert!(notes.contains("tick(s) skipped"), "{notes}");
    stop.cancel();
    collector.await.unwrap().unwrap();
}
