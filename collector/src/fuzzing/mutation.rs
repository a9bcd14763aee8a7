//! What stands for a fuzzer in a plain test: takes a folder of kept inputs, hands
//! each to a target, and then a fixed number of mutations of them, the same in every
//! run.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

/// Mutated inputs for each target.
const MUTATIONS: usize = 20_000;
/// The longest input.
const MAX_LENGTH: usize = 4096;
/// Changes that make one mutation, at most.
const MAX_CHANGES: usize = 6;
/// Where counts and lengths go wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Runs `target` on every file of `corpus`, and on mutations of them; an input that
/// it panics at is shown. Fails where there is no file to begin with.
pub fn replay(corpus: &Path, target: fn(&[u8])) -> io::Result<()> {
    let mut paths = fs::read_dir(corpus)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let kept = paths.iter().map(fs::read).collect::<io::Result<Vec<_>>>()?;
    if kept.is_empty() {
        let what = format!("{} holds no input", corpus.display());
        return Err(io::Error::other(what));
    }
    kept.iter().for_each(|input| run(target, input));
    let mut random = Random(0x006e_6574_696f);
    for _ in 0..MUTATIONS {
        let mut input = kept[random.below(kept.len())].clone();
        for _ in 0..=random.below(MAX_CHANGES) {
            let other = &kept[random.below(kept.len())];
            random.change(&mut input, other);
        }
        input.truncate(MAX_LENGTH);
        run(target, &input);
    }
    Ok(())
}

fn run(target: fn(&[u8]), input: &[u8]) {
    let ran = catch_unwind(AssertUnwindSafe(|| target(input)));
    if let Err(panic) = ran {
        eprintln!("the input: \"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

/// SplitMix64, by its constants.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A part of so many bytes, most often a short one.
    fn part(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        let longest = if self.below(4) == 0 { length } else { 8 };
        let end = length.min(start + self.below(longest + 1));
        start..end
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.next() as u8;
                }
            }
            2 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = 1 << self.below(4);
                let end = input.len().min(at + width);
                for (to, from) in input[at..end].iter_mut().zip(edge) {
                    *to = from;
                }
            }
            3 => {
                input.drain(self.part(input.len()));
            }
            4 => {
                let part = input[self.part(input.len())].to_vec();
                input.splice(at..at, part);
            }
            5 => {
                let part = &other[self.part(other.len())];
                input.splice(at..at, part.iter().copied());
            }
            6 => {
                let part = &other[self.part(other.len())];
                input.splice(self.part_from(at, input.len()), part.iter().copied());
            }
            _ => input.truncate(at),
        }
    }

    fn part_from(&mut self, start: usize, length: usize) -> Range<usize> {
        start..length.min(start + self.below(9))
    }
}
