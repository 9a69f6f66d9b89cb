//! Numbers as they are shown.

use std::borrow::Cow;

use super::super::{Comparison, Contrast, Verdict};

/// Where there is no number.
pub(super) const NONE: &str = "–";

/// What latency means where nothing was planned.
pub(super) const CLOSED: &str = "Latency is of a closed loop: clients that wait for an answer do not ask, so that a \
                                 stall shows in fewer requests than it would hit.";

/// Seconds, with three digits that count: `1.23 ms`.
pub(super) fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|s| s.is_finite() && *s >= 0.0) else {
        return NONE.to_owned();
    };
    let (number, unit) = match seconds {
        s if s < 0.9995e-3 => (s * 1e6, "µs"),
        s if s < 0.9995 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", digits(number))
}

/// A number, with three digits that count.
pub(super) fn number(number: Option<f64>) -> String {
    number
        .filter(|n| n.is_finite())
        .map_or_else(|| NONE.to_owned(), digits)
}

fn digits(number: f64) -> String {
    match number {
        n if n.abs() >= 99.95 || n == 0.0 => grouped(n),
        n if n.abs() >= 9.995 => format!("{n:.1}"),
        n if n.abs() >= 0.095 => format!("{n:.2}"),
        n => format!("{n:.4}"),
    }
}

/// `12,345`.
fn grouped(number: f64) -> String {
    let plain = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in plain.chars().enumerate() {
        let left = plain.len() - i;
        if i > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.034 [1.021–1.048]`; without an interval the ratio alone, with a `~`.
pub(super) fn ratio(contrast: &Contrast) -> String {
    let Contrast {
        ratio, low, high, ..
    } = contrast;
    match contrast.verdict {
        Verdict::TooLittle => format!("~{ratio:.3}"),
        _ if *high >= 99.95 => format!("{ratio:.1} [{low:.1}–{high:.1}]"),
        _ => format!("{ratio:.3} [{low:.3}–{high:.3}]"),
    }
}

/// One sign for a verdict.
pub(super) fn sign(verdict: Verdict) -> char {
    match verdict {
        Verdict::Better => '+',
        Verdict::Worse => '-',
        Verdict::NoDifference => '=',
        Verdict::TooLittle => '?',
    }
}

/// At most `longest` letters of a name.
pub(super) fn short(name: &str, longest: usize) -> Cow<'_, str> {
    match name.chars().count() <= longest {
        true => Cow::Borrowed(name),
        false => name
            .chars()
            .take(longest.saturating_sub(1))
            .chain(['…'])
            .collect::<String>()
            .into(),
    }
}

/// Where, how often and with what chance.
pub(super) fn circumstances(comparison: &Comparison) -> String {
    let here = &comparison.circumstances;
    let done = comparison
        .blocks
        .iter()
        .map(|block| block.round)
        .max()
        .unwrap_or(0);
    let mut parts = vec![match done == comparison.rounds {
        true => format!("{done} rounds"),
        false => format!("{done} of {} rounds", comparison.rounds),
    }];
    if here.cores > 0 {
        parts.push(format!("{} cores", here.cores));
    }
    parts.extend(
        [&here.processor, &here.kernel]
            .into_iter()
            .filter(|text| !text.is_empty())
            .cloned(),
    );
    if !here.version.is_empty() {
        parts.push(format!("pointsman {}", here.version));
    }
    parts.push(format!("seed {}", here.seed));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_that_count() {
        assert_eq!(time(Some(0.000_123_4)), "123 µs");
        assert_eq!(time(Some(0.001_234)), "1.23 ms");
        assert_eq!(time(Some(0.099_99)), "100 ms");
        assert_eq!(time(Some(2.5)), "2.50 s");
        assert_eq!(time(None), NONE);
        assert_eq!(number(Some(1_234_567.8)), "1,234,568");
        assert_eq!(number(Some(-123_456.0)), "-123,456");
        assert_eq!(number(Some(999.0)), "999");
        assert_eq!(number(Some(0.0)), "0");
        assert_eq!(number(Some(0.0123)), "0.0123");
        assert_eq!(number(Some(f64::NAN)), NONE);
        assert_eq!(short("reuseport", 6), "reuse…");
        assert_eq!(short("nginx", 6), "nginx");
    }
}
