//! The option that says from when on history is shown: takes what was typed,
//! produces a time.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// From so long ago.
    Ago(Duration),
    /// From this time.
    At(Timestamp),
}

impl Since {
    /// As a time, by this host's clock; not before 1970, when there was nothing.
    pub(super) fn time(self, now: Timestamp) -> Timestamp {
        let earliest = Timestamp::UNIX_EPOCH;
        match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(earliest),
            Self::At(time) => time,
        }
        .max(earliest)
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = humantime::parse_duration(text).map(Self::Ago);
        ago.or_else(|_| text.parse().map(Self::At)).map_err(|_| {
            "write a duration, such as 5m, or a time with its zone, such as \
             2026-03-01T12:00:00Z"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times() {
        let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (text, time) in [
            ("5m", "2026-03-01T11:55:00Z"),
            ("1h 30s", "2026-03-01T10:59:30Z"),
            ("0s", "2026-03-01T12:00:00Z"),
            ("2026-02-28T01:02:03Z", "2026-02-28T01:02:03Z"),
            ("2026-03-01T12:00:00+02:00", "2026-03-01T10:00:00Z"),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!(since.time(noon).to_string(), time, "{text}");
        }
        for text in ["100years", "500000years", "0001-01-01T00:00:00Z"] {
            let since: Since = text.parse().unwrap();
            assert_eq!(since.time(noon), Timestamp::UNIX_EPOCH, "{text}");
        }
    }

    #[test]
    fn the_rest_is_refused_with_the_right_form() {
        for text in [
            "",
            "5",
            "yesterday",
            "2026-03-01",
            "2026-03-01T12:00:00",
            "-5m",
        ] {
            let why = text.parse::<Since>().unwrap_err();
            assert!(why.contains("such as 5m"), "{text}: {why}");
        }
    }
}
