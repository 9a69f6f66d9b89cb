//! What the shared-memory histogram promises, against the recorded durations themselves.

use std::time::Duration;

use pointsman::scoreboard::{
    RowRef, Scoreboard,
    histogram::{Histogram, Snapshot},
};
use proptest::{collection::vec, prelude::*};

/// The unit of counting, and where the last bucket ends, in nanoseconds.
const UNIT: u64 = 125;
const LONGEST: u64 = UNIT << 30;

/// A number of any magnitude up to so many bits.
fn up_to(bits: u32) -> impl Strategy<Value = u64> {
    (0..=bits, any::<u64>()).prop_map(|(bits, noise)| noise & ((1 << bits) - 1))
}

/// Durations up to the longest that is told apart.
fn durations() -> impl Strategy<Value = Vec<u64>> {
    vec(up_to(37).prop_map(|ns| ns % LONGEST), 1..300)
}

/// A row of a table in shared memory, where histograms live, with these durations recorded.
fn recorded(durations: &[u64]) -> RowRef {
    let board = Scoreboard::create().expect("shared memory");
    let row = board.occupy(0, 1).expect("a fresh table has free rows");
    durations
        .iter()
        .for_each(|ns| row.handoff_duration.record(*ns));
    row
}

fn snapshot(histograms: &[&Histogram]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    histograms.iter().for_each(|h| snapshot.add(h));
    snapshot
}

fn sum(durations: &[u64]) -> Duration {
    Duration::from_nanos(durations.iter().sum())
}

proptest! {
    #[test]
    fn count_and_sum_are_exact(durations in durations()) {
        let snapshot = snapshot(&[&recorded(&durations).handoff_duration]);
        prop_assert_eq!(snapshot.count(), durations.len() as u64);
        prop_assert_eq!(snapshot.sum(), sum(&durations));
    }

    #[test]
    fn a_quantile_is_never_too_short_and_at_most_a_sixteenth_too_long(
        mut durations in durations(), q in 0.0..=1.0_f64
    ) {
        let snapshot = snapshot(&[&recorded(&durations).handoff_duration]);
        durations.sort_unstable();
        for q in [0.0, 0.5, 0.99, 1.0, q] {
            let rank = (q * durations.len() as f64).ceil() as usize;
            let exact = durations[rank.saturating_sub(1)];
            let told = snapshot.quantile(q).expect("something was recorded").as_nanos() as u64;
            // Below what is told lies the share, so what is told itself lies just above it.
            prop_assert!(told > exact, "q {q}: {told} for {exact} ns");
            prop_assert!(told <= exact + (exact / 16).max(UNIT), "q {q}: {told} for {exact} ns");
        }
    }

    #[test]
    fn a_larger_share_never_takes_less_time(
        durations in durations(), a in 0.0..=1.0_f64, b in 0.0..=1.0_f64
    ) {
        let snapshot = snapshot(&[&recorded(&durations).handoff_duration]);
        prop_assert!(snapshot.quantile(a.min(b)) <= snapshot.quantile(a.max(b)));
    }

    #[test]
    fn cumulative_numbers_are_exact(
        mut durations in durations(), edges in vec((0..23_u32, -1..=1_i64), 0..20)
    ) {
        // Around the bounds themselves, where being off by one would show.
        durations.extend(edges.iter().map(|(i, off)| (16_000_u64 << i).wrapping_add_signed(*off)));
        let snapshot = snapshot(&[&recorded(&durations).handoff_duration]);
        for (bound, below) in snapshot.cumulative() {
            let exact = durations.iter().filter(|ns| u128::from(**ns) < bound.as_nanos()).count();
            prop_assert_eq!(below, exact as u64, "below {:?}", bound);
        }
    }

    #[test]
    fn folding_adds_and_so_does_a_snapshot_of_several(a in durations(), b in durations()) {
        let (one, other) = (recorded(&a), recorded(&b));
        let together = snapshot(&[&one.handoff_duration, &other.handoff_duration]);
        one.handoff_duration.fold(&other.handoff_duration);
        prop_assert_eq!(&snapshot(&[&one.handoff_duration]), &together);
        let all = [a, b.clone()].concat();
        prop_assert_eq!(&together, &snapshot(&[&recorded(&all).handoff_duration]));
        let untouched = snapshot(&[&recorded(&b).handoff_duration]);
        prop_assert_eq!(snapshot(&[&other.handoff_duration]), untouched);
    }

    #[test]
    fn what_lasts_longer_than_can_be_told_apart_is_counted_as_the_longest(
        excess in vec(up_to(50), 1..20)
    ) {
        let durations: Vec<_> = excess.into_iter().map(|ns| LONGEST + ns).collect();
        let snapshot = snapshot(&[&recorded(&durations).handoff_duration]);
        prop_assert_eq!(snapshot.count(), durations.len() as u64);
        prop_assert_eq!(snapshot.sum(), sum(&durations));
        prop_assert_eq!(snapshot.quantile(0.0), Some(Duration::from_nanos(LONGEST)));
        prop_assert!(snapshot.cumulative().all(|(_, below)| below == 0));
    }

    #[test]
    fn a_cleared_histogram_is_as_new(durations in durations()) {
        let row = recorded(&durations);
        row.handoff_duration.clear();
        prop_assert_eq!(snapshot(&[&row.handoff_duration]), Snapshot::default());
    }
}

#[test]
fn the_bounds_are_the_powers_of_two_from_16_us_to_67_s() {
    let bounds: Vec<_> = Snapshot::default()
        .cumulative()
        .map(|(bound, _)| bound)
        .collect();
    let doubled = (0..23).map(|i| Duration::from_micros(16 << i));
    assert!(bounds.iter().copied().eq(doubled), "{bounds:?}");
    assert_eq!(bounds.last().map(Duration::as_secs), Some(67));
}

#[test]
fn nothing_recorded_has_no_quantile() {
    assert_eq!(Snapshot::default().quantile(0.5), None);
    assert_eq!(Snapshot::default().count(), 0);
}
