//! The few statistics of the comparison: medians, and ratios paired by round.
//!
//! Pairing is the point of interleaving: whatever slows the machine down for a while slows down
//! all arms of that round, and drops out of their ratio.

use serde::Serialize;

/// Median with the extremes: with a handful of rounds, more than that would be pretence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The spread of `values`; `None` for none at all.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Spread { median, min, max })
}

/// One value of an arm, and the round it was measured in.
pub(crate) type ByRound = (u32, f64);

/// The values of both arms in each round that both of them have.
fn paired<'a>(
    arm: &'a [ByRound],
    reference: &'a [ByRound],
) -> impl Iterator<Item = (f64, f64)> + 'a {
    arm.iter().filter_map(|(round, value)| {
        let (_, base) = reference.iter().find(|(other, _)| other == round)?;
        Some((*value, *base))
    })
}

/// Spread of `arm / reference`, round by round.
pub(crate) fn ratio(arm: &[ByRound], reference: &[ByRound]) -> Option<Spread> {
    let ratios: Vec<f64> = paired(arm, reference)
        .filter(|(_, base)| *base > 0.0)
        .map(|(value, base)| value / base)
        .collect();
    spread(&ratios)
}

/// Spread of `arm - reference`, round by round.
pub(crate) fn difference(arm: &[ByRound], reference: &[ByRound]) -> Option<Spread> {
    let differences: Vec<f64> = paired(arm, reference)
        .map(|(value, base)| value - base)
        .collect();
    spread(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        let odd = spread(&[3.0, 1.0, 2.0]).expect("three values");
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        let even = spread(&[4.0, 1.0, 2.0, 3.0]).expect("four values");
        assert_eq!((even.median, even.min, even.max), (2.5, 1.0, 4.0));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_pair_by_round_not_by_position() {
        // Round 2 was slow for both; round 3 is missing from the reference.
        let arm = [(1, 10.0), (2, 30.0), (3, 99.0)];
        let reference = [(2, 60.0), (1, 20.0)];
        let got = ratio(&arm, &reference).expect("two common rounds");
        assert_eq!((got.median, got.min, got.max), (0.5, 0.5, 0.5));
    }

    #[test]
    fn no_common_round_means_no_ratio() {
        assert_eq!(ratio(&[(1, 1.0)], &[(2, 1.0)]), None);
        assert_eq!(ratio(&[(1, 1.0)], &[(1, 0.0)]), None);
        assert_eq!(difference(&[], &[(1, 1.0)]), None);
    }

    #[test]
    fn differences_keep_their_sign() {
        let got = difference(&[(1, 10.0), (2, 12.0)], &[(1, 12.0), (2, 10.0)]).expect("two rounds");
        assert_eq!((got.median, got.min, got.max), (0.0, -2.0, 2.0));
    }
}
