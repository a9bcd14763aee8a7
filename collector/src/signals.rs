//! Signals that ask the collector to stop.
//!
//! Produces a token that the first of them cancels, so that everything is
//! cleaned up; the second ends the process at once. SIGHUP and SIGQUIT do what
//! SIGTERM does, but stay ignored if the process was started so (`nohup`).
#![forbid(unsafe_code)]

use std::{fs, io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Called within a tokio runtime, once. From its return on, no signal to stop
/// ends the process without cleaning up.
pub(crate) fn stop_token() -> io::Result<CancellationToken> {
    let ignored = ignored_signals();
    let unless_ignored = |kind: SignalKind| {
        let is_ignored = ignored & (1 << (kind.as_raw_value() - 1)) != 0;
        (!is_ignored).then(|| signal(kind)).transpose()
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = unless_ignored(SignalKind::hangup())?;
    let mut quit = unless_ignored(SignalKind::quit())?;

    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let (name, kind) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
                _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
                () = next(&mut hangup) => ("SIGHUP", SignalKind::hangup()),
                () = next(&mut quit) => ("SIGQUIT", SignalKind::quit()),
            };
            if stop.is_cancelled() {
                warn!("{name}, a second signal: leaving at once");
                process::exit(128 + kind.as_raw_value());
            }
            info!("{name}: shutting down");
            stop.cancel();
        }
    });
    Ok(token)
}

/// The next signal; never, if it is ignored.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
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
    fn reads_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\n";
        assert_eq!(parse_ignored(status), Some(0x1001));
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
