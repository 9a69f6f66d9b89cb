//! Numbers as few characters.

use std::time::Duration;

/// What stands where there is nothing to tell.
pub(super) const NOTHING: &str = "-";

/// `0`, `3.2`, `870`, `12.3k`, `4.5M`: at most five characters.
pub(super) fn short(n: f64) -> String {
    if n < 0.05 {
        return "0".into();
    }
    // By the rounded number, so that 999.7 becomes 1.0k and not 1000.
    let (mut n, mut unit) = (n, "");
    for next in ["k", "M", "G", "T"] {
        if n < 999.5 {
            break;
        }
        (n, unit) = (n / 1000.0, next);
    }
    let whole = n >= 99.95 || (unit.is_empty() && n >= 9.95);
    if whole {
        format!("{n:.0}{unit}")
    } else {
        format!("{n:.1}{unit}")
    }
}

/// A count: whole, as long as it is short.
pub(super) fn count(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        n => short(n as f64),
    }
}

/// The same as [`short`], where there may be nothing to tell.
pub(super) fn short_or_nothing(n: Option<f64>) -> String {
    n.map_or_else(|| NOTHING.into(), short)
}

/// `40 µs`, `1.2 ms`, `310 ms`, `2.5 s`.
pub(super) fn lasted(duration: Option<Duration>) -> String {
    let Some(duration) = duration else {
        return NOTHING.into();
    };
    let us = duration.as_secs_f64() * 1e6;
    let (n, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    if n >= 9.95 {
        format!("{n:.0} {unit}")
    } else {
        format!("{n:.1} {unit}")
    }
}

/// `500 ms`, `1 s`: an interval as one would say it.
pub(super) fn interval(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// `text`, cut where it is longer than `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain((width > 0).then_some('…')).collect()
}

/// `text` in lines of at most `width` characters, broken between words; a word that is longer is cut.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_two_or_three_digits() {
        for (n, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.3, "0.3"),
            (9.94, "9.9"),
            (9.96, "10"),
            (870.0, "870"),
            (999.7, "1.0k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (4_500_000.0, "4.5M"),
            (7e12, "7.0T"),
            (7e15, "7000T"),
        ] {
            assert_eq!(short(n), text);
        }
        assert_eq!([0, 7, 999, 1000].map(count), ["0", "7", "999", "1.0k"]);
    }

    #[test]
    fn durations_keep_two_or_three_digits() {
        for (us, text) in [
            (0, "0.0 µs"),
            (40, "40 µs"),
            (1_200, "1.2 ms"),
            (310_000, "310 ms"),
            (999_900, "1.0 s"),
            (25_000_000, "25 s"),
        ] {
            assert_eq!(lasted(Some(Duration::from_micros(us))), text);
        }
        assert_eq!(lasted(None), "-");
        assert_eq!(interval(Duration::from_millis(1500)), "1500 ms");
        assert_eq!(interval(Duration::from_secs(2)), "2 s");
    }

    #[test]
    fn a_long_text_takes_several_lines() {
        assert_eq!(wrapped("to be  or not", 5), ["to be", "or", "not"]);
        assert_eq!(wrapped("questions, µµ", 6), ["quest…", "µµ"]);
        assert!(wrapped("", 5).is_empty());
    }

    #[test]
    fn what_is_too_long_is_cut_by_characters() {
        assert_eq!(cut("µµµ", 3), "µµµ");
        assert_eq!(cut("µµµµ", 3), "µµ…");
        assert_eq!(cut("abc", 0), "");
    }
}
