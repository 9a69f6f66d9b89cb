//! Numbers in words.

use super::{Contrast, Verdict};

/// What a contrast is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Requests a second.
    Throughput,
    /// CPU time for a request.
    Cpu,
    /// The median latency.
    P50,
    /// The latency that one request in a hundred exceeds.
    P99,
}

impl Measure {
    /// All, in the order in which they are shown.
    pub(super) const ALL: [Self; 4] = [Self::Throughput, Self::Cpu, Self::P50, Self::P99];

    /// Its name in a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cpu => "CPU",
            Self::P50 => "median latency",
            Self::P99 => "p99 latency",
        }
    }

    /// Is more of it better?
    pub(super) fn more_is_better(self) -> bool {
        self == Self::Throughput
    }

    /// `7.0 % less CPU for each request (5.0 to 9.0 %)`.
    pub(super) fn change(self, contrast: &Contrast) -> String {
        let (nearer, farther) = match contrast.ratio >= 1.0 {
            true => (contrast.low, contrast.high),
            false => (contrast.high, contrast.low),
        };
        let (size, range) = match contrast.ratio {
            ratio if ratio >= 2.0 => (
                format!("{ratio:.1} times"),
                format!("{nearer:.1} to {farther:.1} times"),
            ),
            ratio => (
                percent((ratio - 1.0).abs()),
                format!(
                    "{} to {}",
                    percent((nearer - 1.0).abs()).trim_end_matches(" %"),
                    percent((farther - 1.0).abs())
                ),
            ),
        };
        format!("{} ({range})", self.direction(contrast.ratio, &size))
    }

    fn direction(self, ratio: f64, size: &str) -> String {
        let many = ratio >= 2.0;
        let more = ratio >= 1.0;
        match self {
            Self::Throughput if many => format!("{size} the requests a second"),
            Self::Throughput if more => format!("{size} more requests a second"),
            Self::Throughput => format!("{size} fewer requests a second"),
            Self::Cpu if many => format!("{size} the CPU for each request"),
            Self::Cpu if more => format!("{size} more CPU for each request"),
            Self::Cpu => format!("{size} less CPU for each request"),
            _ if many => format!("{size} the {}", self.name()),
            _ if more => format!("{size} higher {}", self.name()),
            _ => format!("{size} lower {}", self.name()),
        }
    }
}

impl Verdict {
    /// In a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference",
            Self::TooLittle => "too few rounds",
        }
    }
}

/// `7.0 %`; whole where it is ten or more.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p >= 9.95 => format!("{p:.0} %"),
        p if p > 0.0 && p < 0.095 => format!("{p:.2} %"),
        p => format!("{p:.1} %"),
    }
}

/// `a, b and c`.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => {
            let most: Vec<&str> = most.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", most.join(", "), last.as_ref())
        }
    }
}

/// A sentence begins with it.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_with_their_direction_and_the_nearer_end_first() {
        let contrast = |ratio, low, high| Contrast {
            ratio,
            low,
            high,
            rounds: 12,
            verdict: Verdict::Better,
        };
        let less = Measure::Cpu.change(&contrast(0.93, 0.91, 0.95));
        assert_eq!(less, "7.0 % less CPU for each request (5.0 to 9.0 %)");
        let more = Measure::Throughput.change(&contrast(1.125, 1.062, 1.2));
        assert_eq!(more, "12 % more requests a second (6.2 to 20 %)");
        let many = Measure::P99.change(&contrast(3.0, 2.5, 3.6));
        assert_eq!(many, "3.0 times the p99 latency (2.5 to 3.6 times)");
    }

    #[test]
    fn lists_and_capitals() {
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list::<&str>(&[]), "");
        assert_eq!(capital("no"), "No");
        assert_eq!(capital(""), "");
    }
}
