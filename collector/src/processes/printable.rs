//! Makes text that others chose safe to print and to send.
//!
//! Takes names and paths of processes, which any process may choose and so fill
//! with terminal escapes, and text of requests; produces text without control
//! characters.
#![forbid(unsafe_code)]

/// Control characters and invalid UTF-8 become U+FFFD.
pub(crate) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

/// The same of at most 80 characters. For messages: a status travels in headers,
/// which have no room for a name of 4 KiB.
pub(crate) fn brief(text: &str) -> String {
    let text = printable(text.as_bytes());
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_invalid_utf8_are_replaced() {
        let hostile = b"\x1b[2J\nx\xff\x7f\xc2\x9b";
        assert_eq!(
            printable(hostile),
            "\u{FFFD}[2J\u{FFFD}x\u{FFFD}\u{FFFD}\u{FFFD}"
        );
        assert_eq!(printable("Größe".as_bytes()), "Größe");
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(brief("a\tb"), "a\u{FFFD}b");
        assert_eq!(brief(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(brief(&"ü".repeat(81)), "ü".repeat(80) + "…");
    }
}
