//! Times as the subtitle formats write them.

/// No recording is longer, in milliseconds; sums of times below it cannot overflow.
const LONGEST: u64 = 1 << 50;

/// Seconds to whole milliseconds, rounded to nearest; what is negative or not a number counts as 0.
pub(super) fn milliseconds(seconds: f64) -> u64 {
    // A float-to-integer cast saturates, and NaN becomes 0.
    ((seconds * 1000.0).round() as u64).min(LONGEST)
}

/// `HH:MM:SS` and the separator and the milliseconds; hours grow past two digits when they must.
pub(super) fn timestamp(ms: u64, separator: char) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{separator}{:03}", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest_millisecond_and_carries() {
        assert_eq!(timestamp(milliseconds(59.9996), ','), "00:01:00,000");
        assert_eq!(timestamp(milliseconds(3599.9994), '.'), "00:59:59.999");
        assert_eq!(timestamp(milliseconds(3599.9995), '.'), "01:00:00.000");
        assert_eq!(timestamp(milliseconds(100.0 * 3600.0), '.'), "100:00:00.000");
    }

    #[test]
    fn what_is_no_time_counts_as_zero() {
        assert_eq!(milliseconds(f64::NAN), 0);
        assert_eq!(milliseconds(-1.0), 0);
    }
}
