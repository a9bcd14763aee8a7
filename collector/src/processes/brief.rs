//! What a caller wrote, as a message repeats it: takes any text, produces one line
//! that is fit to be shown (see [`netio::printable`]) and short, since a status
//! travels in headers, which have no room for a name of 4 KiB.
#![forbid(unsafe_code)]

use netio::printable;

/// At most 80 characters, and "…" if there are more.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => printable::line(&text[..end]).into_owned() + "…",
        None => printable::line(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(brief("a\tb\u{202e}"), "a\u{FFFD}b\u{FFFD}");
        assert_eq!(brief(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(brief(&"ü".repeat(81)), "ü".repeat(80) + "…");
    }
}
