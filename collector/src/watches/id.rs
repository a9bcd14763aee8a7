//! The id of a watch: "w-1", "w-2", ... in the order of their making.
#![forbid(unsafe_code)]

use std::fmt;

/// Ordered by age, so that "w-2" comes before "w-10".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WatchId(pub(super) u64);

impl WatchId {
    /// Reads an id back; `None` for text that is no id of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = Self(text.strip_prefix("w-")?.parse().ok()?);
        // One watch has one name: "w-01" and "w-+1" are not it.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for WatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_nothing_else_is() {
        assert_eq!(WatchId::parse("w-10"), Some(WatchId(10)));
        assert_eq!(WatchId(10).to_string(), "w-10");
        assert!(WatchId(2) < WatchId(10));
        for text in [
            "",
            "w-",
            "10",
            "w-01",
            "w-+1",
            "w-x",
            "w-99999999999999999999",
            "W-1",
        ] {
            assert_eq!(WatchId::parse(text), None, "{text}");
        }
    }
}
