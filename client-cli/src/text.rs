//! Text from outside, made fit for a terminal and short enough: takes any string,
//! produces one by [`netio::printable`]. A remote collector is not trusted to have
//! done so.

use netio::printable;

/// The longest name or id that is shown, in characters.
const LONGEST_LINE: usize = 256;
/// The longest message or path that is shown, in characters.
const LONGEST_MESSAGE: usize = 4096;

/// A name or an id: one line, of at most 256 characters.
pub(crate) fn line(text: &str) -> String {
    fit(text, LONGEST_LINE)
}

/// A path or a message: one line, of at most 4,096 characters.
pub(crate) fn long_line(text: &str) -> String {
    fit(text, LONGEST_MESSAGE)
}

fn fit(text: &str, longest: usize) -> String {
    let end = text.char_indices().nth(longest);
    let short = end.map_or(text, |(end, _)| text.get(..end).unwrap_or(text));
    printable::line(short).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays() {
        for text in ["mariadbd", "a b:c/0", "Größe", "名前", "\"quoted\"\\"] {
            assert_eq!(line(text), text);
        }
    }

    #[test]
    fn what_steers_a_terminal_goes() {
        assert_eq!(line("\u{1b}[2Jx"), "\u{fffd}[2Jx");
        assert_eq!(
            line("a\u{9b}31m\r\nb\u{7f}"),
            "a\u{fffd}31m\u{fffd}\u{fffd}b\u{fffd}"
        );
        assert_eq!(line("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(long_line("a\nb\u{1b}"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn length_is_bounded() {
        let long = "x".repeat(100_000);
        assert_eq!(line(&long).len(), LONGEST_LINE);
        assert_eq!(long_line(&long).len(), LONGEST_MESSAGE);
    }
}
