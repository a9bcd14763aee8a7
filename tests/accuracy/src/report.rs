//! The lines of the result: [`About`] first, then one [`Cell`] for each pattern.
//!
//! An error is counted minus truth, in bytes, summed over a pattern's
//! processes; if those cancel out, it is the worst of them. A cell that was not
//! measured has no errors, and says why.
#![forbid(unsafe_code)]

use std::fmt;

use anyhow::{Result, anyhow, ensure};
use netio_traffic::Pattern;
use netio_traffic::protocol::{Bytes, Truth};
use serde::Serialize;

use crate::excuses::{CHILDREN, excuses};

/// The mode whose errors are not its own defects but what it is shown for.
pub(crate) const TUTORIAL: &str = "tutorial";

/// What counted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    /// "tracepoint", "fentry", "kprobe" or "tutorial".
    pub(crate) mode: String,
    /// As of uname -r.
    pub(crate) kernel: String,
    /// The programs attached.
    pub(crate) programs: Vec<Program>,
    /// What the mode admits not to see.
    pub(crate) blind_spots: Vec<BlindSpot>,
    /// Modes that could not be used.
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) hook: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct BlindSpot {
    pub(crate) id: String,
    pub(crate) description: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Attempt {
    pub(crate) mode: String,
    pub(crate) cause: String,
    pub(crate) remedy: String,
}

/// Events known to be missed while a pattern ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct MissedEvents {
    pub(crate) recursion: u64,
    pub(crate) kretprobe: u64,
    pub(crate) map_full: u64,
}

impl About {
    /// Why nothing is attached.
    pub(crate) fn why_not(&self) -> anyhow::Error {
        let attempts = self.attempts.iter();
        let causes: Vec<String> = attempts
            .map(|a| format!("{}: {} ({})", a.mode, a.cause, a.remedy))
            .collect();
        anyhow!("no hooks are attached: {}", causes.join("; "))
    }
}

/// Counted minus truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    pub(crate) sent: i64,
    pub(crate) received: i64,
}

impl Errors {
    /// `counted` is in the order of `truth`.
    pub(crate) fn of(counted: &[Bytes], truth: &[Truth]) -> Result<Self> {
        ensure!(
            counted.len() == truth.len(),
            "{} processes were counted, but the generator reported {}",
            counted.len(),
            truth.len()
        );
        let pairs = || counted.iter().zip(truth);
        Ok(Self {
            sent: sum_or_worst(pairs().map(|(c, t)| difference(c.sent, t.bytes.sent))),
            received: sum_or_worst(pairs().map(|(c, t)| difference(c.received, t.bytes.received))),
        })
    }
}

fn difference(counted: u64, truth: u64) -> i64 {
    counted.wrapping_sub(truth).cast_signed()
}

fn sum_or_worst(errors: impl Iterator<Item = i64> + Clone) -> i64 {
    match errors.clone().sum() {
        0 => errors.max_by_key(|error| error.unsigned_abs()).unwrap_or(0),
        sum => sum,
    }
}

/// What became of a pattern.
#[derive(Debug)]
pub(crate) enum Outcome {
    Measured {
        errors: Errors,
        truth: Bytes,
        missed_events: Option<MissedEvents>,
        note: Option<String>,
        /// The mode refused to follow children, and was asked to count without.
        children_refused: bool,
    },
    /// This kernel cannot make it.
    Unavailable(String),
}

/// One pattern's line.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    pattern: String,
    mode: String,
    kernel: String,
    sent_error: Option<i64>,
    received_error: Option<i64>,
    truth_sent: u64,
    truth_received: u64,
    unavailable: Option<String>,
    /// Those that excuse this error, if there is one.
    blind_spots: Vec<String>,
    missed_events: Option<MissedEvents>,
    note: Option<String>,
    /// Why the pattern was not measured, though it should have been.
    error: Option<String>,
}

impl Cell {
    pub(crate) fn new(pattern: Pattern, about: &About, outcome: Result<Outcome>) -> Self {
        let mut cell = Self {
            pattern: pattern.name(),
            mode: about.mode.clone(),
            kernel: about.kernel.clone(),
            sent_error: None,
            received_error: None,
            truth_sent: 0,
            truth_received: 0,
            unavailable: None,
            blind_spots: Vec::new(),
            missed_events: None,
            note: None,
            error: None,
        };
        match outcome {
            Ok(Outcome::Measured {
                errors,
                truth,
                missed_events,
                note,
                children_refused,
            }) => {
                cell.sent_error = Some(errors.sent);
                cell.received_error = Some(errors.received);
                cell.truth_sent = truth.sent;
                cell.truth_received = truth.received;
                cell.missed_events = missed_events;
                cell.note = note;
                if errors != Errors::default() {
                    let admitted = about.blind_spots.iter().map(|spot| spot.id.as_str());
                    let refused = children_refused.then_some(CHILDREN);
                    let excusing = admitted
                        .filter(|id| Some(*id) != refused)
                        .chain(refused)
                        .filter(|id| excuses(id, pattern, errors, truth));
                    cell.blind_spots = excusing.map(str::to_owned).collect();
                }
            }
            Ok(Outcome::Unavailable(why)) => cell.unavailable = Some(why),
            Err(error) => cell.error = Some(format!("{error:#}")),
        }
        cell
    }

    /// Whether it is exact, excused, or cannot be had.
    pub(crate) fn is_well(&self) -> bool {
        match (self.sent_error, self.received_error) {
            (Some(0), Some(0)) => true,
            (Some(_), Some(_)) => self.mode == TUTORIAL || !self.blind_spots.is_empty(),
            _ => self.unavailable.is_some(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {}: ", self.pattern, self.mode)?;
        match (self.sent_error, self.received_error) {
            (Some(0), Some(0)) => f.write_str("0")?,
            (Some(sent), Some(received)) => {
                write!(
                    f,
                    "sent {sent:+} of {}, received {received:+} of {}",
                    self.truth_sent, self.truth_received
                )?;
                if !self.blind_spots.is_empty() {
                    write!(f, " (blind spot: {})", self.blind_spots.join(", "))?;
                }
            }
            _ => {
                if let Some(why) = &self.unavailable {
                    write!(f, "unavailable: {why}")?;
                }
                if let Some(why) = &self.error {
                    write!(f, "ERROR: {why}")?;
                }
            }
        }
        if let Some(missed) = self.missed_events
            && missed != MissedEvents::default()
        {
            write!(f, " [{missed:?}]")?;
        }
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(mode: &str, blind_spots: &[&str]) -> About {
        About {
            mode: mode.to_owned(),
            kernel: "6.1".to_owned(),
            programs: Vec::new(),
            blind_spots: blind_spots
                .iter()
                .map(|id| BlindSpot {
                    id: (*id).to_owned(),
                    description: String::new(),
                })
                .collect(),
            attempts: Vec::new(),
        }
    }

    fn bytes(sent: u64, received: u64) -> Bytes {
        Bytes { sent, received }
    }

    fn measured(sent: i64, received: i64) -> Result<Outcome> {
        Ok(Outcome::Measured {
            errors: Errors { sent, received },
            truth: bytes(100, 100),
            missed_events: None,
            note: None,
            children_refused: false,
        })
    }

    #[test]
    fn errors_of_processes_do_not_cancel_out() {
        let truth = |pid, sent, received| Truth {
            pid,
            bytes: bytes(sent, received),
        };
        let counted = [bytes(10, 7), bytes(10, 0)];
        let truth = [truth(1, 7, 7), truth(2, 13, 1)];
        let errors = Errors::of(&counted, &truth).unwrap();
        assert_eq!(errors.sent.abs(), 3);
        assert_eq!(errors.received, -1);
        assert!(Errors::of(&counted[..1], &truth).is_err());
    }

    #[test]
    fn a_cell_is_well_if_exact_excused_or_not_to_be_had() {
        let well = |about: &About, pattern, outcome| Cell::new(pattern, about, outcome).is_well();
        let plain = about("kprobe", &["mptcp", "not-tcp"]);
        assert!(well(&plain, Pattern::Peek, measured(0, 0)));
        assert!(!well(&plain, Pattern::Peek, measured(0, 1)));
        assert!(!well(&plain, Pattern::Peek, measured(-1, 0)));
        assert!(well(&plain, Pattern::Mptcp, measured(0, -9)));
        assert!(!well(&plain, Pattern::Mptcp, measured(0, 9)));
        assert!(!well(&plain, Pattern::Ktls, measured(0, -9)));
        let outcome = Ok(Outcome::Unavailable("no module".to_owned()));
        assert!(well(&plain, Pattern::Ktls, outcome));
        let outcome = Err(anyhow::anyhow!("it hung"));
        assert!(!well(&plain, Pattern::Mptcp, outcome));
        assert!(well(&about(TUTORIAL, &[]), Pattern::Peek, measured(0, 9)));
        let outcome = Err(anyhow::anyhow!("it hung"));
        assert!(!well(&about(TUTORIAL, &[]), Pattern::Peek, outcome));
    }

    #[test]
    fn a_mode_that_refuses_children_is_excused_for_missing_them_only() {
        let refused = |sent| {
            let Ok(Outcome::Measured {
                errors,
                truth,
                missed_events,
                note,
                ..
            }) = measured(sent, 0)
            else {
                unreachable!("it was measured");
            };
            Ok(Outcome::Measured {
                errors,
                truth,
                missed_events,
                note,
                children_refused: true,
            })
        };
        for about in [about("tracepoint", &[]), about("tracepoint", &[CHILDREN])] {
            let cell = Cell::new(Pattern::ForkingTree, &about, refused(-9));
            assert!(cell.is_well());
            assert_eq!(cell.blind_spots, [CHILDREN]);
            assert!(!Cell::new(Pattern::ForkingTree, &about, refused(9)).is_well());
            assert!(!Cell::new(Pattern::Peek, &about, refused(-9)).is_well());
        }
        let admits_nothing = about("tracepoint", &[]);
        assert!(!Cell::new(Pattern::ForkingTree, &admits_nothing, measured(-9, 0)).is_well());
    }

    #[test]
    fn a_line_names_its_fields_as_its_readers_do() {
        let cell = Cell::new(
            Pattern::Mptcp,
            &about("kprobe", &["mptcp"]),
            measured(0, -9),
        );
        let line = serde_json::to_value(&cell).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "pattern": "mptcp", "mode": "kprobe", "kernel": "6.1",
                "sent_error": 0, "received_error": -9,
                "truth_sent": 100, "truth_received": 100,
                "unavailable": null, "blind_spots": ["mptcp"],
                "missed_events": null, "note": null, "error": null,
            })
        );
    }
}
