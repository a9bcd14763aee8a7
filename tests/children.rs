//! Children of a watched process: counted with it from their first byte to their
//! last, whether or not there is room to tell them apart.

mod support;

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use netio::v1::{
    CollectorInfo, GetCollectorInfoRequest, ProcessState, Target, WatchRequest,
    net_io_service_client::NetIoServiceClient,
};
use netio_traffic::Pattern;
use support::{
    Collector, PATIENCE, Result,
    generator::Generator,
    ledger::{Books, Bytes, Ledger},
    listed, skip, wait,
};
use tonic::transport::Channel;

/// What the pattern's 2,000 children send, and their parent receives.
const ALL: Bytes = Bytes {
    sent: 200_000,
    received: 200_000,
};

async fn info(client: &mut NetIoServiceClient<Channel>) -> Result<CollectorInfo> {
    let response = client.get_collector_info(GetCollectorInfoRequest {});
    Ok(response.await?.into_inner().info.ok_or("no info")?)
}

/// Has the children live and die under the watch of a collector; what it counted.
async fn short_lived(arguments: &[&str]) -> Result<(Books, CollectorInfo)> {
    let collector = Collector::start(arguments)?;
    let mut client = collector.connect().await?;
    assert!(info(&mut client).await?.follows_children);
    let mut generator = Generator::start(Pattern::ShortLivedChildren)?;
    let [parent] = *generator.pids() else {
        return Err(format!("one process to watch, not {:?}", generator.pids()).into());
    };
    let target = Target::pid(parent).following_children(true);
    let watch = support::request(&mut client, WatchRequest::new(target)).await?;
    assert!(watch.follow_children);
    let mut ledger = Ledger::open(&mut client, &watch).await?;
    let truth = generator.go()?;
    let [truth] = truth.as_slice() else {
        return Err(format!("one truth, not {truth:?}").into());
    };
    assert_eq!((truth.bytes.sent, truth.bytes.received), (200_000, 200_000));
    let books = ledger.settled().await?;
    let info = info(&mut client).await?;
    let now = listed(&mut client, &watch).await?.ok_or("it is gone")?;
    assert_eq!(now.process_count, 1, "the parent alone is left: {now:?}");
    generator.exit()?;
    let ended = ledger.when("end of the watch", |books| {
        books.state() == Some(ProcessState::Exited)
    });
    assert_eq!(ended.await?.totals(), ALL);
    Ok((books, info))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_short_lived_children_are_counted_to_the_byte() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let (books, _) = short_lived(&["--interval", "200ms"]).await?;
    assert_eq!(books.totals(), ALL);
    assert!(books.parts.len() > 1, "no child had a line");
    for (key, part) in &books.parts {
        // The parent only receives; a child sends all its bytes or, if it had to
        // share a line, none in its own.
        let child = part.bytes.received == 0;
        let whole = matches!(part.bytes.sent, 0 | 100);
        assert!(whole || !child, "{key:?}: {part:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn children_without_a_line_of_their_own_are_in_the_sum() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    // Many more than 64 children come in a tick of half a second.
    let (books, info) = short_lived(&["--interval", "500ms", "--max-processes", "64"]).await?;
    assert_eq!(books.totals(), ALL);
    assert!(books.map_full.processes > 0, "{:?}", books.map_full);
    assert!(books.unlisted.sent > 0, "{:?}", books.unlisted);
    let map_full = info.map_full.ok_or("no word of what did not fit")?;
    assert!(map_full.processes >= books.map_full.processes);
    let limits = info.limits.ok_or("no limits")?;
    assert_eq!(limits.max_processes, 64);
    Ok(())
}

/// A shell that forks a child which sends, executes another program, sends as
/// that and exits: each step when it is told, and said when it is done.
struct Shell {
    process: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    peer: Option<JoinHandle<std::io::Result<usize>>>,
}

/// Before and after it executes.
const FIRST: &str = "before";
const SECOND: &str = "afterwards";

impl Shell {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let script = format!(
            "read step
             (exec 3<>/dev/tcp/127.0.0.1/{port}
              printf {FIRST} >&3; echo sent; read step
              exec sh -c 'printf {SECOND} >&3; echo sent; read step')
             echo exited; read step"
        );
        let mut process = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no input")?;
        let output = process.stdout.take().ok_or("no output")?;
        Ok(Self {
            process,
            orders,
            lines: BufReader::new(output).lines(),
            peer: Some(thread::spawn(move || hear(&listener))),
        })
    }

    /// Has it take the next step, and waits until it says `done`.
    fn step(&mut self, done: &str) -> Result {
        writeln!(self.orders, "step")?;
        assert_eq!(self.lines.next().ok_or("the shell has ended")??, done);
        Ok(())
    }
}

/// Everything that is sent on the first connection.
fn hear(listener: &TcpListener) -> std::io::Result<usize> {
    let mut peer: TcpStream = listener.accept()?.0;
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.read_to_end(&mut Vec::new())
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_executes_a_program_keeps_counting_under_its_new_name() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let mut shell = Shell::start()?;
    let parent = shell.process.id();
    let target = Target::pid(parent).following_children(true);
    let watch = support::request(&mut client, WatchRequest::new(target)).await?;
    let mut ledger = Ledger::open(&mut client, &watch).await?;

    shell.step("sent")?;
    let books = ledger.settled().await?;
    let mut children = books.named("bash").filter(|((pid, _), _)| *pid != parent);
    let (child, part) = children.next().ok_or("the child has no line")?;
    assert_eq!(part.bytes.sent, FIRST.len() as u64);

    shell.step("sent")?;
    let books = ledger.settled().await?;
    let part = &books.parts[child];
    assert_eq!(part.name, "sh");
    assert_eq!(part.bytes.sent, (FIRST.len() + SECOND.len()) as u64);
    assert_eq!(part.exited, None);

    // Its last sample comes with one of the next two ticks, and is the last.
    shell.step("exited")?;
    let exited = SystemTime::now();
    let books = ledger.settled().await?;
    let told = books.parts[child].exited.ok_or("its exit was not told")?;
    let ticks = books.ticks.iter();
    let late = ticks
        .filter(|tick| **tick > exited && **tick < told)
        .count();
    assert!(late < 2, "its exit was told {late} ticks late");
    assert_eq!(
        books.state(),
        Some(ProcessState::Running),
        "the parent runs"
    );

    let heard = FIRST.len() + SECOND.len();
    assert_eq!(books.totals().sent, heard as u64);
    writeln!(shell.orders, "step")?;
    wait(&mut shell.process, PATIENCE)?;
    let ended = ledger.when("end of the watch", |books| {
        books.state() == Some(ProcessState::Exited)
    });
    assert_eq!(ended.await?.totals().sent, heard as u64);
    let peer = shell.peer.take().ok_or("no peer")?;
    assert_eq!(peer.join().map_err(|_| "the peer panicked")??, heard);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_left_alone_unless_asked_for() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let mut shell = Shell::start()?;
    let watch = support::watch(&mut client, shell.process.id()).await?;
    assert!(!watch.follow_children, "bash is no PostgreSQL");
    let mut ledger = Ledger::open(&mut client, &watch).await?;
    shell.step("sent")?;
    shell.step("sent")?;
    let books = ledger.settled().await?;
    assert_eq!(books.totals(), Bytes::default());
    assert_eq!(books.parts.len(), 1, "{:?}", books.parts);
    Ok(())
}
