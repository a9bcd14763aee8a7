//! Signals that ask a program to stop, for the collector and for the client.
//!
//! Produces a token that the first of them cancels, so that everything is
//! cleaned up; the second ends the process at once, with exit code 128 + the
//! signal's number.
#![forbid(unsafe_code)]

use std::{fs, io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The token, of [`Signals::listen`] and [`Signals::token`]. Called within a tokio
/// runtime, once.
pub fn stop_token(
    obeyed: &[SignalKind],
    unless_ignored: &[SignalKind],
) -> io::Result<CancellationToken> {
    Ok(Signals::listen(obeyed, unless_ignored)?.token())
}

/// Signals that end this process no more by themselves.
pub struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    /// `obeyed` are always heeded; `unless_ignored` stay ignored if the process was
    /// started so (`nohup`, background jobs of a script). From its return on, none of
    /// these signals ends the process without cleaning up; one that comes before there
    /// is a token waits for it.
    ///
    /// Called within a tokio runtime, once; that need not be the token's, nor run.
    pub fn listen(obeyed: &[SignalKind], unless_ignored: &[SignalKind]) -> io::Result<Self> {
        let ignored = ignored_signals();
        let heeded = unless_ignored
            .iter()
            .filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0);
        let kinds = obeyed.iter().chain(heeded);
        let listened = kinds.map(|kind| Ok((*kind, signal(*kind)?)));
        listened.collect::<io::Result<_>>().map(Self)
    }

    /// The token. Called within the tokio runtime that is to cancel it.
    pub fn token(self) -> CancellationToken {
        let token = CancellationToken::new();
        for (kind, mut signals) in self.0 {
            let number = kind.as_raw_value();
            let stop = token.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if stop.is_cancelled() {
                        tracing::warn!(number, "a second signal: leaving at once");
                        process::exit(128 + number);
                    }
                    tracing::info!(number, "a signal to stop: shutting down");
                    stop.cancel();
                }
            });
        }
        token
    }
}

/// The signals that this process ignores, as a bit mask; bit 0 is signal 1.
/// None, if /proc does not tell.
fn ignored_signals() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| parse_ignored(&status))
        .unwrap_or(0)
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_before_the_runtime_is_not_lost() {
        // Of all signals, the one that nobody else here has a use for.
        let kind = SignalKind::user_defined2();
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let signals = runtime()
            .block_on(async { Signals::listen(&[kind], &[]) })
            .unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::USR2).unwrap();
        runtime().block_on(async {
            let soon = std::time::Duration::from_secs(30);
            let stopped = signals.token();
            tokio::time::timeout(soon, stopped.cancelled())
                .await
                .unwrap();
        });
    }

    #[test]
    fn reads_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\n";
        assert_eq!(parse_ignored(status), Some(0x1001));
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
