//! Times of the API as times of Rust, for those that others sent: what is no time
//! as the API's types define it is none here, and never a panic.

use std::time::{Duration, SystemTime};

/// 0001-01-01T00:00:00Z, the earliest that a `google.protobuf.Timestamp` can be.
const EARLIEST: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the latest second.
const LATEST: i64 = 253_402_300_799;
/// About 10,000 years: the longest that a `google.protobuf.Duration` can be.
const LONGEST: i64 = 315_576_000_000;

/// A duration; none if it is negative, longer than 315,576,000,000 s, or its
/// nanoseconds are not from 0 to 999,999,999.
#[must_use]
pub fn duration(of: prost_types::Duration) -> Option<Duration> {
    let seconds = (0..=LONGEST).contains(&of.seconds).then_some(of.seconds)?;
    Some(Duration::new(
        u64::try_from(seconds).ok()?,
        nanos(of.nanos)?,
    ))
}

/// A point in time; none if it is not of the years 1 to 9999, or its nanoseconds are
/// not from 0 to 999,999,999.
#[must_use]
pub fn system_time(of: prost_types::Timestamp) -> Option<SystemTime> {
    let seconds = (EARLIEST..=LATEST).contains(&of.seconds);
    let whole = Duration::from_secs(seconds.then_some(of.seconds)?.unsigned_abs());
    let second = if of.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    second?.checked_add(Duration::from_nanos(nanos(of.nanos)?.into()))
}

fn nanos(nanos: i32) -> Option<u32> {
    u32::try_from(nanos).ok().filter(|it| *it < 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTREMES: [i64; 6] = [
        i64::MIN,
        i64::MIN + 1,
        -1,
        LONGEST + 1,
        i64::MAX - 1,
        i64::MAX,
    ];

    #[test]
    fn what_is_a_time_arrives() {
        let of = |seconds, nanos| duration(prost_types::Duration { seconds, nanos });
        assert_eq!(of(0, 0), Some(Duration::ZERO));
        assert_eq!(of(1, 500_000_000), Some(Duration::from_millis(1500)));
        assert!(of(LONGEST, 999_999_999).is_some());
        let at = |seconds, nanos| system_time(prost_types::Timestamp { seconds, nanos });
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(at(0, 1), Some(epoch + Duration::from_nanos(1)));
        assert_eq!(
            at(-1, 250_000_000),
            Some(epoch - Duration::from_millis(750))
        );
        assert!(at(EARLIEST, 0).is_some() && at(LATEST, 999_999_999).is_some());
    }

    #[test]
    fn what_is_none_does_not() {
        for seconds in EXTREMES {
            for nanos in [0, 1, -1, i32::MIN, i32::MAX, 999_999_999] {
                let it = prost_types::Duration { seconds, nanos };
                assert_eq!(duration(it), None, "{it:?}");
            }
        }
        for nanos in [-1, 1_000_000_000, i32::MIN, i32::MAX] {
            assert_eq!(duration(prost_types::Duration { seconds: 1, nanos }), None);
            assert_eq!(
                system_time(prost_types::Timestamp { seconds: 1, nanos }),
                None
            );
        }
        for seconds in [i64::MIN, EARLIEST - 1, LATEST + 1, i64::MAX] {
            assert_eq!(
                system_time(prost_types::Timestamp { seconds, nanos: 0 }),
                None
            );
        }
    }
}
