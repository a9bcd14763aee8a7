//! Text from outside, made fit for a terminal: takes any string, produces one
//! without characters that move the cursor, change colours or reorder what is
//! read. A remote collector is not trusted to have done so.

/// The longest name or id that is shown, in characters.
const LONGEST_LINE: usize = 256;
/// The longest message or path that is shown, in characters.
const LONGEST_MESSAGE: usize = 4096;

/// A name or an id: one line, of at most 256 characters.
pub(crate) fn line(text: &str) -> String {
    fit(text, LONGEST_LINE, is_harmless)
}

/// A path or the like: one line, of at most 4,096 characters.
pub(crate) fn long_line(text: &str) -> String {
    fit(text, LONGEST_MESSAGE, is_harmless)
}

/// A message: may have several lines, at most 4,096 characters.
pub(crate) fn message(text: &str) -> String {
    fit(text, LONGEST_MESSAGE, |c| is_harmless(c) || c == '\n')
}

fn fit(text: &str, longest: usize, may_stay: impl Fn(char) -> bool) -> String {
    let fit = |c| {
        if may_stay(c) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    text.chars().take(longest).map(fit).collect()
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            // Marks and isolates that reorder text, and separators of lines.
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
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
        assert_eq!(message("two\nlines\u{1b}"), "two\nlines\u{fffd}");
    }

    #[test]
    fn length_is_bounded() {
        let long = "x".repeat(100_000);
        assert_eq!(line(&long).len(), LONGEST_LINE);
        assert_eq!(long_line(&long).len(), LONGEST_MESSAGE);
        assert_eq!(message(&long).len(), LONGEST_MESSAGE);
    }
}
