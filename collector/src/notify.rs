//! Tells a service manager how the collector fares (`sd_notify(3)`).
//!
//! Takes `NOTIFY_SOCKET`, and for the watchdog `WATCHDOG_USEC` and `WATCHDOG_PID`,
//! as systemd sets them; sends datagrams. Without the first nobody is told
//! anything. Promises never to wait: what does not fit into the manager's queue is
//! lost, and the watchdog's next word comes soon.
#![forbid(unsafe_code)]

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::Arc,
    time::Duration,
};

use tracing::warn;

/// Whoever started the collector, if it wants to be told; clones tell the same one.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As this process's environment has it. Fails if it names a socket that is not
    /// there: the manager would wait for word in vain.
    pub fn from_env() -> io::Result<Self> {
        Self::new(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// Nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// As an environment has it.
    pub(crate) fn new(env: impl Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let Some(name) = env("NOTIFY_SOCKET") else {
            return Ok(Self::none());
        };
        let explain = |why: io::Error| {
            let name = name.display();
            io::Error::new(
                why.kind(),
                format!("cannot notify {name} (NOTIFY_SOCKET): {why}"),
            )
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        address(&name)
            .and_then(|address| socket.connect_addr(&address))
            .map_err(explain)?;
        Ok(Self {
            socket: Some(Arc::new(socket)),
            watchdog: watchdog(env("WATCHDOG_USEC"), env("WATCHDOG_PID")),
        })
    }

    /// How long the manager waits for word before it takes the collector for dead;
    /// none: it does not.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The collector serves.
    pub(crate) fn ready(&self, status: impl fmt::Display) {
        self.send(format_args!("READY=1\nSTATUS={status}"));
    }

    /// What it does now, for humans.
    pub(crate) fn status(&self, status: impl fmt::Display) {
        self.send(format_args!("STATUS={status}"));
    }

    /// It lives.
    pub(crate) fn alive(&self) {
        self.send(format_args!("WATCHDOG=1"));
    }

    /// It is about to end.
    pub(crate) fn stopping(&self) {
        self.send(format_args!("STOPPING=1\nSTATUS=stopping"));
    }

    fn send(&self, message: fmt::Arguments<'_>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.to_string().as_bytes()) {
            warn!(%error, "the service manager cannot be told {message}");
        }
    }
}

/// A path, or after an "@" a name without a file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither an absolute path nor a name that begins with @",
        )),
    }
}

/// A watchdog is meant for the process that it names, if it names one.
fn watchdog(microseconds: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if let Some(pid) = pid
        && number(pid) != Some(process::id().into())
    {
        return None;
    }
    let microseconds = microseconds.and_then(number).filter(|it| *it > 0)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::mpsc, time::Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::{
        Options,
        access::tests::wire::Log,
        server::rig::{Rig, watch},
    };

    /// A service manager that reads what it is told.
    pub(crate) struct Manager {
        socket: UnixDatagram,
        folder: TempDir,
    }

    impl Manager {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, folder }
        }

        pub(crate) fn notifier(&self, watchdog: Duration) -> Notifier {
            let path = self.folder.path().join("notify");
            let microseconds = watchdog.as_micros().to_string();
            Notifier::new(|name| match name {
                "NOTIFY_SOCKET" => Some(path.clone().into()),
                "WATCHDOG_USEC" => Some(microseconds.clone().into()),
                _ => None,
            })
            .unwrap()
        }

        /// Everything that was said since the last call.
        pub(crate) fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 1024];
            let mut heard = Vec::new();
            while let Ok(length) = self.socket.recv(&mut buffer) {
                heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            heard
        }
    }

    #[test]
    fn a_manager_hears_everything_in_order() {
        let manager = Manager::new();
        let notifier = manager.notifier(Duration::from_secs(30));
        assert_eq!(notifier.watchdog(), Some(Duration::from_secs(30)));
        notifier.ready("counting");
        notifier.clone().alive();
        notifier.status("busy");
        notifier.stopping();
        let expected = ["READY=1\nSTATUS=counting", "WATCHDOG=1", "STATUS=busy"];
        let heard = manager.heard();
        assert_eq!(heard[..3], expected);
        assert_eq!(heard[3..], ["STOPPING=1\nSTATUS=stopping"]);
    }

    /// On threads of its own, which write to a log of its own.
    #[test]
    fn fault_24_that_ticks_have_stopped_is_told_by_status_and_log() {
        const TOLD: &str = "ticks have stopped";
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let log = Log::default();
        let writer = log.clone();
        let write_log = move || {
            let log = tracing_subscriber::fmt().with_ansi(false);
            let log = log.with_writer(writer.clone()).finish();
            // As long as the thread.
            std::mem::forget(tracing::subscriber::set_default(log));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(write_log)
            .build();
        runtime.unwrap().block_on(async {
            let manager = Manager::new();
            let rig = Rig::new(Options {
                interval: Options::MIN_INTERVAL,
                notifier: manager.notifier(Duration::from_secs(1)),
                ..Options::default()
            });
            rig.processes.start(7, 1);
            watch(&mut rig.client(), 7).await;
            let (release, released) = mpsc::channel::<()>();
            rig.kernel.at_next_look(move |_| _ = released.recv());
            let begin = Instant::now();
            let status = format!("STATUS={TOLD}");
            while !manager.heard().contains(&status) {
                assert!(begin.elapsed() < Duration::from_secs(60), "no {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(release);
        });
        assert_eq!(log.count(TOLD), 1);
    }

    #[test]
    fn a_name_without_a_file_is_understood() {
        let name = format!("netio-notify-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(|variable| {
            (variable == "NOTIFY_SOCKET").then(|| format!("@{name}").into())
        });
        notifier.unwrap().alive();
        let mut buffer = [0; 32];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
    }

    #[test]
    fn nobody_is_told_without_a_socket_and_a_wrong_one_is_an_error() {
        let notifier = Notifier::new(|_| None).unwrap();
        notifier.ready("");
        assert_eq!(notifier.watchdog(), None);
        for wrong in ["/no/such/socket", "relative"] {
            let refused = Notifier::new(|name| (name == "NOTIFY_SOCKET").then(|| wrong.into()));
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains(wrong) && refused.contains("NOTIFY_SOCKET"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let manager = Manager::new();
        let notifier = manager.notifier(Duration::from_secs(30));
        for _ in 0..10_000 {
            notifier.alive();
        }
        assert!(manager.heard().len() < 10_000);
    }

    #[test]
    fn a_watchdog_may_be_another_process_s() {
        let some = |text: &str| Some(OsString::from(text));
        let own = process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(some("1000000"), None), second);
        assert_eq!(watchdog(some("1000000"), some(&own)), second);
        assert_eq!(watchdog(some("1000000"), some("1")), None);
        assert_eq!(watchdog(some("0"), None), None);
        assert_eq!(watchdog(some("soon"), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
