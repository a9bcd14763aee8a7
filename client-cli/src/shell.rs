//! Commands to be typed: takes a word, produces it as a shell must be given it.

/// As a shell must be given `text` for it to be one word.
pub(crate) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_where_it_must_be() {
        assert_eq!(word("unix:///run/a.sock"), "unix:///run/a.sock");
        assert_eq!(word("unix:///a b"), "'unix:///a b'");
        assert_eq!(word("unix:///it's"), r"'unix:///it'\''s'");
        assert_eq!(word("http://[::1]:1"), "'http://[::1]:1'");
        assert_eq!(word(""), "''");
    }
}
