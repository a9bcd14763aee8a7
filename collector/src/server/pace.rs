//! How many frames a peer may send.
//!
//! h2 bounds what a peer can make it hold, but not how much work it makes: PING and
//! SETTINGS are answered without end, WINDOW_UPDATE, PRIORITY and resets are followed. So
//! the frames that come in are counted, whatever they are. A peer may send [`BURST`] at
//! once, [`A_SECOND`] more each second, and for each message or answer that it was sent
//! [`FOR_AN_ANSWER`] more and one for each [`BYTES_A_FRAME`], which it takes back room by:
//! opening, reading and ending calls needs fewer than that.
//!
//! Takes the bytes that are read, before h2 sees them; produces whether that is exceeded.
//! [`super::http2`] ends the connection then, and nothing more is read.
#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

/// More than it takes to open all streams that a connection can have, and to set up each
/// one's window.
const BURST: u32 = 4096;
const A_SECOND: u32 = 256;
const FOR_AN_ANSWER: u32 = 8;
/// Peers give back room for a stream and for the connection at the latest after half a
/// window, or after each DATA frame, of up to 16 KiB.
const BYTES_A_FRAME: usize = 4 * 1024;

/// What every connection begins with (RFC 9113, 3.4), before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;

/// A connection's account. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// What answers since it was looked at last allow.
    allowed: AtomicU32,
    is_exceeded: AtomicBool,
}

impl Pace {
    /// The peer was sent a message of so many bytes, or the beginning of an answer.
    pub(super) fn answered(&self, bytes: usize) {
        // Answers are shorter than 4 GiB.
        let more = u32::try_from(bytes / BYTES_A_FRAME).unwrap_or(u32::MAX);
        let more = more.saturating_add(FOR_AN_ANSWER);
        let sum = |allowed: u32| Some(allowed.saturating_add(more).min(BURST));
        let _ = self
            .0
            .allowed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.0.is_exceeded.load(Ordering::Relaxed)
    }
}

/// Counts what comes in on a connection.
pub(super) struct Meter {
    pace: Pace,
    /// So many bytes are of no interest.
    skip: usize,
    header: [u8; HEADER_BYTES],
    /// So many of the header have come.
    have: usize,
    /// Frames that the peer may still send.
    left: u32,
    filled: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pace: Pace::default(),
            skip: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            have: 0,
            left: BURST,
            filled: now,
        }
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// These bytes have come.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) {
        let frames = self.frames(bytes);
        if frames == 0 {
            return;
        }
        self.fill(now);
        match self.left.checked_sub(frames) {
            Some(left) => self.left = left,
            None => self.pace.0.is_exceeded.store(true, Ordering::Relaxed),
        }
    }

    /// How many frames have begun.
    fn frames(&mut self, mut bytes: &[u8]) -> u32 {
        let mut frames = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return frames;
            }
            let wanted = self.header.get_mut(self.have..).unwrap_or_default();
            let taken = wanted.len().min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            for (to, from) in wanted.iter_mut().zip(head) {
                *to = *from;
            }
            self.have += taken;
            bytes = rest;
            if self.have == HEADER_BYTES {
                let [high, middle, low, ..] = self.header;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.have = 0;
                frames += 1;
            }
        }
    }

    fn fill(&mut self, now: Instant) {
        let allowed = self.pace.0.allowed.swap(0, Ordering::Relaxed);
        self.left = self.left.saturating_add(allowed);
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds > 0 {
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(seconds.saturating_mul(A_SECOND));
            self.filled = now;
        }
        self.left = self.left.min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        // What looks like a header is not one in a payload.
        frame.resize(HEADER_BYTES + payload, 0);
        frame
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut sent = vec![b'P'; PREFACE_BYTES];
        for payload in [0, 8, 1, 16_384, 70_000, 0, 0] {
            sent.extend(frame(payload));
        }
        for cut in [1, 2, 8, 9, 10, 1000, sent.len()] {
            let mut meter = Meter::new(Instant::now());
            let frames: u32 = sent.chunks(cut).map(|bytes| meter.frames(bytes)).sum();
            assert_eq!(frames, 7, "cut {cut}");
        }
    }

    #[test]
    fn what_is_sent_beyond_the_answers_is_exceeded() {
        let begin = Instant::now();
        let begun = || {
            let mut meter = Meter::new(begin);
            meter.read(&[0; PREFACE_BYTES], begin);
            meter
        };
        let frames = |count: u32| frame(0).repeat(count as usize);
        let mut meter = begun();
        meter.read(&frames(BURST), begin);
        assert!(!meter.pace().is_exceeded());
        meter.read(&frames(1), begin);
        assert!(meter.pace().is_exceeded());

        // Each answer and each second gives more, up to what there was at first.
        let mut meter = begun();
        meter.read(&frames(BURST), begin);
        meter.pace().answered(BYTES_A_FRAME - 1);
        meter.read(&frames(FOR_AN_ANSWER), begin);
        meter.pace().answered(300 * BYTES_A_FRAME);
        meter.read(&frames(FOR_AN_ANSWER + 300), begin);
        let second = begin + Duration::from_secs(1);
        meter.read(&frames(A_SECOND), second);
        assert!(!meter.pace().is_exceeded());
        let later = begin + Duration::from_secs(3600);
        meter.read(&frames(BURST), later);
        assert!(!meter.pace().is_exceeded());
        meter.read(&frames(1), later);
        assert!(meter.pace().is_exceeded());
    }
}
