//! Signals that ask a program to stop, for the collector and for the client.
//!
//! Produces a token that the first of them cancels, so that everything is
//! cleaned up; the second ends the process at once, with exit code 128 + the
//! signal's number.
#![forbid(unsafe_code)]

use std::{fs, io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The token. `obeyed` are always heeded; `unless_ignored` stay ignored if the
/// process was started so (`nohup`, background jobs of a script).
///
/// Called within a tokio runtime, once. From its return on, none of these
/// signals ends the process without cleaning up.
pub fn stop_token(
    obeyed: &[SignalKind],
    unless_ignored: &[SignalKind],
) -> io::Result<CancellationToken> {
    let ignored = ignored_signals();
    let heeded = unless_ignored
        .iter()
        .filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0);
    let token = CancellationToken::new();
    for kind in obeyed.iter().chain(heeded) {
        let number = kind.as_raw_value();
        let mut signals = signal(*kind)?;
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
    Ok(token)
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
