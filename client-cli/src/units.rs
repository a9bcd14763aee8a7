//! Quantities for people: takes a number of bytes, produces text of a fixed
//! width; takes a duration, produces it in its two largest units.

use std::time::Duration;

/// The width of what [`bytes`] produces, up to 1,024 EiB.
pub(crate) const WIDTH: usize = 11;

/// Below this many bytes the exact number is shown.
const EXACT_BELOW: f64 = 10_000.0;

/// Shows bytes, exactly when below 10,000 and else in binary units with two
/// decimals, always [`WIDTH`] characters wide, so that columns stay aligned.
pub(crate) fn bytes(count: f64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Rounded first, lest 9,999.7 be shown as 10000 bytes.
    if count.round() < EXACT_BELOW {
        return format!("{:>7.0} B  ", count.round());
    }
    let mut scaled = count / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What two decimals would show as 1024.00 belongs to the next unit.
        if scaled < 1023.995 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    format!("{scaled:>7.2} {unit}")
}

/// Shows how long ago something was, such as "5 min 3 s" or "2 d 4 h".
pub(crate) fn age(age: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = age.as_secs();
    let largest = UNITS.iter().position(|(length, _)| seconds >= *length);
    let Some(largest) = largest else {
        return "0 s".to_owned();
    };
    let mut rest = seconds;
    let units = UNITS.iter().skip(largest).take(2);
    let parts = units.map(|(length, name)| {
        let count = rest / length;
        rest %= length;
        format!("{count} {name}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_when_small_binary_when_large() {
        for (count, shown) in [
            (0.0, "      0 B  "),
            (1.0, "      1 B  "),
            (9_999.0, "   9999 B  "),
            (9_999.4, "   9999 B  "),
            (9_999.7, "   9.77 KiB"),
            (10_000.0, "   9.77 KiB"),
            (10_240.0, "  10.00 KiB"),
            (1_048_570.0, "1023.99 KiB"),
            (1_048_575.0, "   1.00 MiB"),
            (1_048_576.0, "   1.00 MiB"),
            (1_572_864.0, "   1.50 MiB"),
            (1_099_511_627_776.0, "   1.00 TiB"),
            (u64::MAX as f64, "  16.00 EiB"),
        ] {
            assert_eq!(bytes(count), shown, "{count}");
        }
    }

    #[test]
    fn the_width_never_changes() {
        for shift in 0..64 {
            for count in [1u64 << shift, (1u64 << shift) - 1] {
                assert_eq!(bytes(count as f64).len(), WIDTH, "{count}");
            }
        }
    }

    #[test]
    fn ages_in_their_two_largest_units() {
        for (seconds, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (303, "5 min 3 s"),
            (3 * 3600 + 20 * 60 + 59, "3 h 20 min"),
            (86_400, "1 d 0 h"),
            (100 * 86_400 + 7200, "100 d 2 h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(age(Duration::from_millis(999)), "0 s");
    }
}
