//! Text that others chose, made fit to be shown.
//!
//! Names of processes, paths, ids, and what a collector or a client says may hold
//! anything: escapes that steer a terminal, newlines that forge a line of a log,
//! marks that reorder what is read. Takes such text, produces the same with U+FFFD
//! ([`char::REPLACEMENT_CHARACTER`]) for each harmful character. Ordinary text
//! comes back borrowed.
//!
//! | where it goes | function |
//! |---|---|
//! | a message of the API | [`without_controls`]: what the API promises, and no more |
//! | one line of a terminal or a log | [`line`] |
//! | several lines of our own, with such text in them | [`lines`] |
//! | JSON that was written already | [`json`]: escapes, so nothing is lost |

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character can be shown: it neither steers a terminal (C0 and C1
/// controls, DEL) nor reorders, joins or breaks what is read (bidirectional marks,
/// isolates and overrides, invisible joiners, separators of lines and paragraphs).
#[must_use]
pub fn may_be_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// Text of one line, fit for a terminal or a log.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, may_be_shown)
}

/// The same for text of several lines: newlines stay. Whoever lays out lines of
/// others' text makes each text a [`line`] first.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c == '\n' || may_be_shown(c))
}

/// Text of the API: control characters, and what is no UTF-8, are replaced. The rest
/// is kept, also what may not be shown.
#[must_use]
pub fn without_controls(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    replaced(&text, |c| !c.is_control()).into_owned()
}

/// JSON in which every character that may not be shown is written as an escape,
/// `\u202e`. A newline outside of strings stays; within, JSON has none.
#[must_use]
pub fn json(json: &str) -> Cow<'_, str> {
    let may_stay = |c| c == '\n' || may_be_shown(c);
    if json.chars().all(may_stay) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        if may_stay(c) {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    Cow::Owned(escaped)
}

fn replaced(text: &str, may_stay: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&may_stay) {
        return Cow::Borrowed(text);
    }
    let fit = |c| {
        if may_stay(c) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    Cow::Owned(text.chars().map(fit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays_and_is_not_copied() {
        for text in ["mariadbd", "a b:c/0", "Größe", "名前", "\"quoted\"\\", ""] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(json(text), Cow::Borrowed(same) if same == text));
            assert_eq!(without_controls(text.as_bytes()), text);
        }
        assert!(matches!(lines("a\nb\n"), Cow::Borrowed("a\nb\n")));
    }

    #[test]
    fn what_steers_a_terminal_or_forges_a_line_goes() {
        assert_eq!(line("\u{1b}[2Jx"), "\u{fffd}[2Jx");
        let hostile = "a\u{9b}31m\r\nb\u{7f}\0\u{1b}]0;c\u{7}";
        let gone = "a\u{fffd}31m\u{fffd}\u{fffd}b\u{fffd}\u{fffd}\u{fffd}]0;c\u{fffd}";
        assert_eq!(line(hostile), gone);
        assert_eq!(lines("a\n\r\u{1b}b\n"), "a\n\u{fffd}\u{fffd}b\n");
        for mark in ['\u{202e}', '\u{2066}', '\u{200f}', '\u{2028}', '\u{feff}'] {
            assert_eq!(line(&format!("a{mark}b")), "a\u{fffd}b", "{mark:?}");
        }
    }

    #[test]
    fn the_api_keeps_what_it_promises_to_keep() {
        let hostile = b"\x1b[2J\nx\xff\x7f\xc2\x9b\xe2\x80\xae";
        assert_eq!(
            without_controls(hostile),
            "\u{fffd}[2J\u{fffd}x\u{fffd}\u{fffd}\u{fffd}\u{202e}"
        );
    }

    #[test]
    fn json_says_the_same_after_escaping() {
        let text = "a\u{202e}\u{9b}b\u{1b}\n";
        let written = serde_json::to_string(text).unwrap() + "\n";
        let escaped = json(&written);
        assert_eq!(escaped, "\"a\\u202e\\u009bb\\u001b\\n\"\n");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
