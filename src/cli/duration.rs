//! Durations as people write them: `10s`, `500ms`, `2m`, `1.5h`.

use std::time::Duration;

/// The longest that makes sense anywhere: a day.
const LONGEST: f64 = 86_400.0;

/// Reads a duration above zero and up to a day. A unit must be there: a bare number means seconds to
/// one and milliseconds to the next.
///
/// # Errors
/// It is none; the text says what would be.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("not a number with a unit, such as 500ms, 10s, 2m or 1h".into()),
    };
    let number: f64 = number
        .trim_end()
        .parse()
        .map_err(|_| String::from("not a number with a unit, such as 500ms, 10s, 2m or 1h"))?;
    Some(number * seconds)
        .filter(|seconds| *seconds > 0.0 && *seconds <= LONGEST)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not above zero and up to a day".into())
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
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
