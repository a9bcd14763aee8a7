//! Bytes for people: takes a number of bytes, produces text of a fixed width.

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
}
