//! What can be said of a few noisy numbers: a centre, and an interval that holds the true one. Pure.
//!
//! The numbers are log ratios, one for each round. On a shared machine some rounds go wrong altogether, so the
//! centre is a trimmed mean (about a seventh is cut off at either end), and its standard error is Yuen's, made of
//! the winsorised variance (R. Wilcox, "Introduction to Robust Estimation and Hypothesis Testing", chapters 3, 4).
//!
//! The interval is the studentised bootstrap's ("bootstrap-t": Efron and Tibshirani, "An Introduction to the
//! Bootstrap", chapter 12). Of what was tried on 8 to 30 numbers (normal, Laplace, exponential, log-normal, and
//! normal with one outlier in twenty; 2,000 trials each), it alone held the truth in 93.5 to 96.5 of 100 trials,
//! whatever the numbers were like. The percentile bootstrap falls to 78 for the plain mean, the bootstrap-t of the
//! plain mean to 90, and Student's t to 83 where numbers are skewed. A fifth cut off at either end is as honest,
//! but intervals are a tenth wider. With fewer than eight numbers too many of the resamples have no spread, and
//! Student's t for trimmed means (Tukey and McLaughlin) takes over; `tests/statistics.rs` tries both again.

use crate::random::Random;

/// Fewer numbers than this say nothing.
pub const FEWEST: usize = 5;
/// From here on intervals are bootstrapped.
const ENOUGH_TO_RESAMPLE: usize = 8;
/// The share of the numbers that is cut off at either end.
const TRIM: f64 = 0.15;
/// How often the numbers are drawn anew.
const RESAMPLES: usize = 2000;
/// Intervals hold the truth this often.
const CONFIDENCE: f64 = 0.95;
/// A resample's error counts as this share of the sample's at least. Where most numbers are nearly equal and a few
/// are not, resamples of the equal ones alone lie any distance away, and intervals would be ten times wider for
/// no better a coverage (tried with a third, on all that is named above: 93.4 to 96).
const LEAST_SPREAD: f64 = 1.0 / 3.0;
/// A spread below this share of the numbers' size is rounding.
const ROUNDING: f64 = 1e-12;

/// What a few numbers say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Their trimmed mean; of fewer than [`FEWEST`], their mean.
    pub centre: f64,
    /// Lower end of the interval; without one, the lowest number.
    pub low: f64,
    /// Upper end of the interval; without one, the highest number.
    pub high: f64,
    /// How much there is to go by.
    pub basis: Basis,
}

/// How much there is to go by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Basis {
    /// The interval holds the true centre 95 times in 100.
    Sound {
        /// How probable a centre at least this far from 0 is where the truth is 0. Student's: two equal arms
        /// can change places, so their log ratio is symmetric, and there Student's t is as good far out, where
        /// corrections for many comparisons look, as near the middle. A bootstrap has few resamples there.
        chance: f64,
    },
    /// Hardly two numbers differ: nothing tells how far off they may be.
    NoSpread,
    /// There are too few of them.
    TooFew,
}

/// What `numbers` say; those that are no numbers count for nothing. `None`: there is none. The same numbers in
/// the same order and the same `seed` give the same estimate.
pub fn estimate(numbers: &[f64], seed: u64) -> Option<Estimate> {
    let mut sorted: Vec<f64> = numbers.iter().copied().filter(|x| x.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let n = sorted.len();
    let without_interval = |centre: f64, basis| Estimate {
        centre,
        low,
        high,
        basis,
    };
    if n < FEWEST {
        let mean = sorted.iter().sum::<f64>() / n as f64;
        return Some(without_interval(mean, Basis::TooFew));
    }
    let once = vec![1; n];
    let Trimmed { mean, error } = Trimmed::of(&sorted, &once);
    if error <= ROUNDING * low.abs().max(high.abs()) {
        return Some(without_interval(mean, Basis::NoSpread));
    }
    let freedom = n - 2 * cut(n) - 1;
    let (below, above) = if n < ENOUGH_TO_RESAMPLE {
        let t = student_bound(1.0 - CONFIDENCE, freedom);
        (-t, t)
    } else {
        bounds(&sorted, mean, error, &mut Random::new(seed))
    };
    Some(Estimate {
        centre: mean,
        low: mean - above * error,
        high: mean - below * error,
        basis: Basis::Sound {
            chance: student(mean / error, freedom),
        },
    })
}

/// Holm's correction ("A simple sequentially rejective multiple test procedure", 1979): which of several
/// findings stand when the chance that any of them is none may be 5 in 100 altogether.
pub fn holm(chances: &[f64]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|a, b| chances[*a].total_cmp(&chances[*b]));
    let mut stands = vec![false; chances.len()];
    for (passed, i) in order.into_iter().enumerate() {
        if chances[i] * (chances.len() - passed) as f64 > 1.0 - CONFIDENCE || chances[i].is_nan() {
            break;
        }
        stands[i] = true;
    }
    stands
}

/// The median; `None`: there are no numbers.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.into_iter().filter(|x| x.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0),
    }
}

/// How many of `n` numbers are cut off at either end.
fn cut(n: usize) -> usize {
    (TRIM * n as f64) as usize
}

/// A trimmed mean and its standard error.
struct Trimmed {
    mean: f64,
    error: f64,
}

impl Trimmed {
    /// Of the numbers `sorted`, each taken as often as `times` says; as many in all as there are.
    fn of(sorted: &[f64], times: &[u32]) -> Self {
        let n = sorted.len();
        let g = cut(n);
        let (mut seen, mut sum, mut squares) = (0, 0.0, 0.0);
        let mut ends: Option<(f64, f64)> = None;
        // Distances from a middle number: squares of large numbers would drown small differences.
        let middle = sorted[n / 2];
        for (x, times) in sorted.iter().zip(times) {
            let (from, to) = (g.max(seen), (n - g).min(seen + *times as usize));
            seen += *times as usize;
            if from < to {
                let (x, kept) = (x - middle, (to - from) as f64);
                sum += kept * x;
                squares += kept * x * x;
                ends = Some((ends.map_or(x, |(first, _)| first), x));
            }
        }
        let (first, last) = ends.unwrap_or_default();
        let (n, g, kept) = (n as f64, g as f64, (n - 2 * g) as f64);
        // What was cut off counts as if it lay where the cut is.
        let winsorised = sum + g * (first + last);
        let variation = squares + g * (first * first + last * last) - winsorised * winsorised / n;
        Self {
            mean: middle + sum / kept,
            error: (variation.max(0.0) / (kept * (kept - 1.0))).sqrt(),
        }
    }
}

/// Between which two values the studentised distance of the mean from the truth lies 95 times in 100, as
/// resamples have it.
fn bounds(sorted: &[f64], mean: f64, error: f64, random: &mut Random) -> (f64, f64) {
    let n = sorted.len();
    let mut times = vec![0u32; n];
    let mut distances: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            times.fill(0);
            for _ in 0..n {
                times[random.below(n)] += 1;
            }
            let drawn = Trimmed::of(sorted, &times);
            let distance = drawn.mean - mean;
            distance / drawn.error.max(LEAST_SPREAD * error)
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let rank = |share: f64| ((share * (RESAMPLES + 1) as f64) as usize).clamp(1, RESAMPLES) - 1;
    (distances[rank(tail)], distances[rank(1.0 - tail)])
}

/// How probable it is that Student's t with `freedom` degrees of freedom lies as far from 0 as `t`, on either
/// side: the finite series in Abramowitz and Stegun, 26.7.3 and 26.7.4.
fn student(t: f64, freedom: usize) -> f64 {
    let angle = (t.abs() / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    let mut k = if odd { 1 } else { 0 };
    while k + 2 <= freedom {
        sum += term;
        k += 2;
        term *= cosine * cosine * (k - 1) as f64 / k as f64;
    }
    let within = match odd {
        true => std::f64::consts::FRAC_2_PI * (angle + sine * sum),
        false => sine * sum,
    };
    (1.0 - within).clamp(0.0, 1.0)
}

/// The t that [`student`] exceeds with this `chance`.
fn student_bound(chance: f64, freedom: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    while high - low > 1e-9 * high {
        let middle = (low + high) / 2.0;
        match student(middle, freedom) > chance {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_t_is_that_of_the_tables() {
        for (freedom, bound) in [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (7, 2.365),
            (30, 2.042),
        ] {
            let found = student_bound(0.05, freedom);
            assert!((found - bound).abs() < 6e-4, "{freedom}: {found}");
        }
        assert!((student_bound(0.01, 10) - 3.169).abs() < 6e-4);
        assert_eq!(student(0.0, 5), 1.0);
    }

    #[test]
    fn a_trimmed_mean_and_its_error_are_as_worked_out_by_hand() {
        // Cut: 1 and 100. Winsorised: 2 2 3 4 5 6 6, mean 4, squares of distances 18; 18 / (5 · 4).
        let sorted = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0];
        let trimmed = Trimmed::of(&sorted, &[1; 7]);
        assert_eq!(trimmed.mean, 4.0);
        assert!((trimmed.error - 0.9_f64.sqrt()).abs() < 1e-12);
        // The same numbers, drawn: 2 2 2 4 4 5 100.
        let drawn = Trimmed::of(&sorted, &[0, 3, 0, 2, 1, 0, 1]);
        assert!((drawn.mean - 3.4).abs() < 1e-12);
    }

    #[test]
    fn too_few_equal_or_broken_numbers_claim_nothing() {
        assert_eq!(estimate(&[], 1), None);
        assert_eq!(estimate(&[f64::NAN, f64::INFINITY], 1), None);
        let few = estimate(&[0.1, 0.2, 0.3, f64::NAN, 0.4], 1).expect("four are numbers");
        assert_eq!(few.basis, Basis::TooFew);
        assert_eq!((few.low, few.high), (0.1, 0.4));
        let equal = estimate(&[0.1; 12], 1).expect("numbers");
        assert_eq!(equal.basis, Basis::NoSpread);
        let nearly = [[0.1; 11].as_slice(), &[9.0]].concat();
        let nearly = estimate(&nearly, 1).expect("numbers");
        assert_eq!((nearly.basis, nearly.high), (Basis::NoSpread, 9.0));
        assert!(estimate(&[0.0; 30], 1).is_some_and(|e| e.basis == Basis::NoSpread));
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_shifting_shifts_it() {
        let numbers = [0.1, -0.2, 0.05, 0.3, 0.0, -0.1, 0.2, 0.15, 0.02];
        let shifted = numbers.map(|x| x + 5.0);
        let (one, other) = (estimate(&numbers, 3), estimate(&shifted, 3));
        assert_eq!(one, estimate(&numbers, 3));
        let (one, other) = (one.expect("numbers"), other.expect("numbers"));
        assert!((one.low + 5.0 - other.low).abs() < 1e-9);
        assert!((one.high + 5.0 - other.high).abs() < 1e-9);
        assert!(one.low < one.centre && one.centre < one.high);
    }

    #[test]
    fn holm_lets_fewer_findings_stand_than_there_are() {
        assert_eq!(holm(&[0.04]), [true]);
        assert_eq!(holm(&[0.04, 0.04]), [false, false]);
        assert_eq!(holm(&[0.04, 0.001, 0.02]), [true, true, true]);
        assert_eq!(holm(&[0.06, 0.001, 0.02]), [false, true, true]);
        assert_eq!(holm(&[f64::NAN, 0.001]), [false, true]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, f64::NAN, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
