//! Why a mode could not be attached, in one line.
#![forbid(unsafe_code)]

use std::fmt;

/// Why a mode could not be attached: a chain of causes in one line.
#[derive(Debug)]
pub(super) struct AttachError(pub(super) String);

impl AttachError {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for AttachError {
    fn from(error: E) -> Self {
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors repeat their source in their own text.
            if !chain.contains(&cause_text) {
                chain = format!("{chain}: {cause_text}");
            }
            source = cause.source();
        }
        Self(shortened(&chain))
    }
}

/// An error's text without the verifier's log, but for the two lines before its
/// statistics, which name the fault.
fn shortened(text: &str) -> String {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let Some((head, log)) = text.split_once("Verifier output:") else {
        return text.trim().to_owned();
    };
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word)))
        .collect();
    let tail = lines[lines.len().saturating_sub(2)..].join(" / ");
    let head = head.trim().trim_end_matches('.');
    if tail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}; verifier: {tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifiers_log_is_cut_to_what_names_the_fault() {
        assert_eq!(shortened("load failed. Verifier output: \n"), "load failed");
        let log = "load failed. Verifier output: 0: (b7) r0 = 0\nR1 invalid\nprocessed 2 insns\n";
        assert_eq!(
            shortened(log),
            "load failed; verifier: 0: (b7) r0 = 0 / R1 invalid"
        );
    }
}
