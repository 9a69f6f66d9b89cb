//! A log-linear histogram of durations in shared memory: constant relative error, one store to
//! record, no allocation ever. The shape is that of HdrHistogram (Gil Tene): every power of two is
//! cut into equally wide buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::count::add;
use crate::sys::shm::shared_struct;

/// Durations are counted in units of 125 ns, so that bucket edges fall on 1.024 ms and the like.
const UNIT_NS: u64 = 125;
/// log2 of the buckets per power of two: 16, a width of at most 1/16 of the value.
const BITS: u32 = 4;
const PER_OCTAVE: usize = 1 << BITS;
/// The highest exponent: 2^30 units are 134 s; what lasts longer lands in the last bucket.
const MAX_EXPONENT: u32 = 30;

/// Buckets of a histogram.
pub const BUCKETS: usize = PER_OCTAVE * (MAX_EXPONENT - BITS + 1) as usize;

shared_struct! {
    /// Counts of durations. One writer; readers see each number whole, and the total is the sum of
    /// what they read, so a snapshot is always consistent with itself.
    #[derive(Debug)]
    pub struct Histogram {
        sum_ns: AtomicU64,
        buckets: [AtomicU64; BUCKETS],
    }
}

/// The bucket of a duration.
#[inline]
fn bucket(ns: u64) -> usize {
    let units = ns / UNIT_NS;
    if units < PER_OCTAVE as u64 {
        return units as usize;
    }
    let exponent = 63 - units.leading_zeros();
    if exponent >= MAX_EXPONENT {
        return BUCKETS - 1;
    }
    // The leading bit says the octave, the BITS behind it the place in it.
    let place = (units >> (exponent - BITS)) as usize & (PER_OCTAVE - 1);
    (exponent - BITS + 1) as usize * PER_OCTAVE + place
}

/// The first duration, in nanoseconds, that no longer belongs to bucket `i`.
fn upper_edge(i: usize) -> u64 {
    let (octave, place) = (i / PER_OCTAVE, (i % PER_OCTAVE) as u64);
    let units = match octave {
        0 => place + 1,
        _ => (PER_OCTAVE as u64 + place + 1) << (octave - 1),
    };
    units * UNIT_NS
}

impl Histogram {
    /// Counts one duration. Only the one writer may call this.
    #[inline]
    pub fn record(&self, ns: u64) {
        add(&self.buckets[bucket(ns)], 1);
        add(&self.sum_ns, ns);
    }

    /// Adds what `other` has counted; for the master, folding a dead worker's row.
    pub fn fold(&self, other: &Self) {
        add(&self.sum_ns, other.sum_ns.load(Relaxed));
        for (mine, theirs) in self.buckets.iter().zip(&other.buckets) {
            add(mine, theirs.load(Relaxed));
        }
    }

    /// Back to nothing; for the master, before a row is used again.
    pub fn clear(&self) {
        self.sum_ns.store(0, Relaxed);
        self.buckets.iter().for_each(|b| b.store(0, Relaxed));
    }
}

/// What one or several histograms held at one time.
/// Its serialised form names only the buckets that hold something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Sparse", into = "Sparse")]
pub struct Snapshot {
    sum_ns: u64,
    buckets: Box<[u64]>,
}

/// A [`Snapshot`] on its way to another process or into a file.
#[derive(Serialize, Deserialize)]
struct Sparse {
    sum_ns: u64,
    /// Bucket and what it holds, in ascending order.
    buckets: Vec<(usize, u64)>,
}

impl From<Snapshot> for Sparse {
    fn from(snapshot: Snapshot) -> Self {
        let held = snapshot.buckets.iter().copied().enumerate();
        Self {
            sum_ns: snapshot.sum_ns,
            buckets: held.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

impl TryFrom<Sparse> for Snapshot {
    type Error = String;

    fn try_from(sparse: Sparse) -> Result<Self, String> {
        let mut snapshot = Self {
            sum_ns: sparse.sum_ns,
            ..Self::default()
        };
        for (i, n) in sparse.buckets {
            let bucket = snapshot.buckets.get_mut(i);
            *bucket.ok_or_else(|| format!("there is no bucket {i}"))? += n;
        }
        Ok(snapshot)
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            sum_ns: 0,
            buckets: vec![0; BUCKETS].into(),
        }
    }
}

impl Snapshot {
    /// Adds what `histogram` holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        self.sum_ns += histogram.sum_ns.load(Relaxed);
        for (mine, theirs) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *mine += theirs.load(Relaxed);
        }
    }

    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }

    /// What was counted since `earlier`, which the same histograms held then.
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many of those counted lasted longer than `duration`, those left out that are in the same bucket.
    pub fn longer_than(&self, duration: Duration) -> u64 {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns) + 1..].iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// How many lasted less than each of the powers of two from 16 µs to 67 s: pairs of an upper
    /// bound and the number below it, ascending. The bounds are edges of buckets, so the numbers are
    /// exact, not interpolated.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        self.buckets
            .chunks(PER_OCTAVE)
            .enumerate()
            .filter_map(move |(octave, chunk)| {
                below += chunk.iter().sum::<u64>();
                let edge = upper_edge(octave * PER_OCTAVE + PER_OCTAVE - 1);
                // The last bucket also holds all that is longer, so its edge bounds nothing.
                let bounded = octave < BUCKETS / PER_OCTAVE - 1;
                (bounded && edge >= 16_000).then_some((Duration::from_nanos(edge), below))
            })
    }

    /// The duration below which the share `q` (0 to 1) of those counted lies, at most 1/16 too long;
    /// `None` if nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        self.buckets.iter().enumerate().find_map(|(i, n)| {
            below += n;
            (below >= rank && count > 0).then(|| Duration::from_nanos(upper_edge(i)))
        })
    }

    /// As [`Snapshot::quantile`], in seconds, but with what a bucket holds taken to be spread evenly over it:
    /// ratios of two quantiles would otherwise go in steps of 1/16. `None` where fewer than one of those
    /// counted lies beyond: that would be no more than the longest one.
    pub fn interpolated(&self, q: f64) -> Option<f64> {
        let count = self.count() as f64;
        // A hair of room: 1 - 0.9 is a little less than 0.1.
        if !(0.0..1.0).contains(&q) || count * (1.0 - q) < 1.0 - 1e-9 {
            return None;
        }
        let wanted = q * count;
        let mut below = 0.0;
        self.buckets.iter().enumerate().find_map(|(i, n)| {
            let (before, held) = (below, *n as f64);
            below += held;
            (held > 0.0 && below >= wanted).then(|| {
                let start = if i == 0 { 0 } else { upper_edge(i - 1) } as f64;
                let width = upper_edge(i) as f64 - start;
                (start + width * (wanted - before) / held) / 1e9
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_come_back_from_their_serialised_form_and_can_be_subtracted() {
        let mut early = Snapshot::default();
        early.record(Duration::from_micros(50));
        let mut late = early.clone();
        late.record(Duration::from_millis(3));
        late.record(Duration::MAX);
        let json = serde_json::to_string(&late).expect("plain data");
        assert_eq!(serde_json::from_str::<Snapshot>(&json).expect("ours"), late);
        let between = late.since(&early);
        assert_eq!(between.count(), 2);
        let mut sum = early;
        sum.merge(&between);
        assert_eq!(sum, late);
        let broken = format!(r#"{{"sum_ns":0,"buckets":[[{BUCKETS},1]]}}"#);
        assert!(serde_json::from_str::<Snapshot>(&broken).is_err());
    }

    #[test]
    fn what_lasted_longer_is_counted_from_the_next_bucket_on() {
        let mut some = Snapshot::default();
        for ms in [1, 1, 2, 400, 500_000] {
            some.record(Duration::from_millis(ms));
        }
        let longer = |ms| some.longer_than(Duration::from_millis(ms));
        assert_eq!([0, 1, 2, 3, 399].map(longer), [5, 3, 2, 2, 1]);
        assert_eq!(some.longer_than(Duration::MAX), 0);
    }

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        assert_eq!(bucket(0), 0);
        for i in 0..BUCKETS - 1 {
            let edge = upper_edge(i);
            assert_eq!(bucket(edge - 1), i, "just below {edge} ns");
            assert_eq!(bucket(edge), i + 1, "at {edge} ns");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn interpolated_quantiles_lie_between_the_edges_and_need_somebody_beyond() {
        let mut even = Snapshot::default();
        for us in 1..=1000 {
            even.record(Duration::from_micros(us));
        }
        for (q, seconds) in [
            (0.5, 500e-6),
            (0.9, 900e-6),
            (0.99, 990e-6),
            (0.999, 999e-6),
        ] {
            let found = even.interpolated(q).expect("one in 1,000 lies beyond");
            assert!((found / seconds - 1.0).abs() < 0.03, "{q}: {found}");
        }
        assert_eq!(even.interpolated(0.9999), None);
        assert_eq!(even.interpolated(1.0), None);
        assert_eq!(Snapshot::default().interpolated(0.5), None);
    }
}
