//! Durations as people write them: `10s`, `500ms`, `2m`, `1.5h`.

use std::{ops::RangeInclusive, time::Duration};

/// What makes sense anywhere, in seconds: up to a day.
const SENSIBLE: RangeInclusive<f64> = 0.001..=86_400.0;

/// Reads a duration from a millisecond to a day. A unit must be there: a bare number means seconds to
/// one and milliseconds to the next.
///
/// # Errors
/// It is none; the text says what would be.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "not a number with a unit, such as 500ms, 10s, 5m or 1h";
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(WANTED.into()),
    };
    let number: f64 = number.trim_end().parse().map_err(|_| WANTED)?;
    sensible(number * seconds)
}

/// The same where seconds are usual: a bare number means these.
///
/// # Errors
/// As [`duration`].
pub(super) fn or_seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => sensible(seconds),
        Err(_) => duration(text),
    }
}

fn sensible(seconds: f64) -> Result<Duration, String> {
    SENSIBLE
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
        .ok_or_else(|| "not a time from 1ms to 24h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_make_a_duration() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5s", 1500),
            ("0.25s", 250),
            ("2m", 120_000),
            ("2min", 120_000),
            ("10 s", 10_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "", "s", "10", "0s", "-1s", "25h", "10 days", "1s2", "NaNs", "infs", "é", "1ms ",
            "0.1ms",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn where_seconds_are_usual_the_unit_may_be_missing() {
        for (text, ms) in [
            ("90", 90_000),
            ("0.5", 500),
            ("500ms", 500),
            ("5m", 300_000),
        ] {
            assert_eq!(or_seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0", "-1", "90000", "nan", "inf", "5d"] {
            assert!(or_seconds(text).is_err(), "{text}");
        }
    }
}
