//! The guard: do clients fare worse than the limits of a comparison allow? Pure.

use std::time::Duration;

use super::design::Design;
use crate::{compare::Block, scoreboard::histogram::Snapshot};

/// A share of fewer requests says nothing.
const REQUESTS_FOR_ERRORS: u64 = 100;
/// A p99 of fewer requests says nothing.
const REQUESTS_FOR_P99: u64 = 200;
/// By how much a p99 must be above the base's, however many times that is: where answers take
/// microseconds, a busy moment of the machine makes many times that of them, and nobody notices.
const NOTICEABLE: Duration = Duration::from_millis(5);

/// Why the comparison must end, if it must: `block` is what was measured of the present block, `earlier`
/// are all blocks before it.
pub(super) fn objection(design: &Design, earlier: &[Block], block: &Block) -> Option<String> {
    let mut base = Pool::default();
    earlier
        .iter()
        .filter(|b| design.is_base(b.arm))
        .for_each(|b| base.add(b));
    let mut present = Pool::default();
    present.add(block);
    let name = &design.arms[block.arm];
    let round = block.round;
    let limits = &design.plan;
    if present.all() >= REQUESTS_FOR_ERRORS
        && present.share() > base.share() + limits.max_error_rate
    {
        let over = match base.share() {
            0.0 => String::new(),
            share => format!(" more than the {} with the base", percent(share)),
        };
        return Some(format!(
            "with {name}, round {round}, {} of {} requests failed ({}): --max-error-rate allows {}{over}",
            present.errors,
            present.all(),
            percent(present.share()),
            percent(limits.max_error_rate)
        ));
    }
    let (before, now) = (base.p99()?, present.p99()?);
    let allowed = before.mul_f64(limits.max_p99).max(before + NOTICEABLE);
    (now > allowed).then(|| {
        format!(
            "with {name}, round {round}, one request in a hundred took {} or more, with the base {}: --max-p99 allows {} times that",
            milliseconds(now),
            milliseconds(before),
            limits.max_p99
        )
    })
}

/// Several blocks together.
#[derive(Default)]
struct Pool {
    requests: u64,
    errors: u64,
    latency: Snapshot,
}

impl Pool {
    fn add(&mut self, block: &Block) {
        self.requests += block.requests;
        self.errors += block.errors;
        self.latency.merge(&block.latency);
    }

    fn all(&self) -> u64 {
        self.requests + self.errors
    }

    /// The share that failed; 0 of nothing.
    fn share(&self) -> f64 {
        self.errors as f64 / self.all().max(1) as f64
    }

    /// `None`: too few to say.
    fn p99(&self) -> Option<Duration> {
        let enough = self.latency.count() >= REQUESTS_FOR_P99;
        self.latency.quantile(0.99).filter(|_| enough)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::ComparePlan, dispatch::mode::Arm, master::operations::compare::meter::blank,
    };

    /// A block of `n` requests of `ms` each, of which `errors` failed.
    fn block(arm: usize, n: u64, errors: u64, ms: u64) -> Block {
        let mut block = blank(arm, 1, 1, Duration::ZERO);
        block.requests = n - errors;
        block.errors = errors;
        for _ in 0..n {
            block.latency.record(Duration::from_millis(ms));
        }
        block
    }

    fn design() -> Design {
        Design {
            arms: vec![Arm::ALL[1], Arm::ALL[1], Arm::ALL[6]],
            plan: ComparePlan::default(),
        }
    }

    #[test]
    fn it_objects_to_what_is_worse_than_the_base_and_to_nothing_else() {
        let slow_base = [
            block(0, 150, 0, 20),
            block(2, 500, 0, 1),
            block(1, 150, 0, 20),
        ];
        for (earlier, present, why) in [
            // Too few to say anything.
            (&[][..], block(2, 99, 99, 1), None),
            (&[], block(2, 100, 1, 1), None),
            (&[], block(2, 100, 2, 1), Some("2 of 100")),
            // The base itself is watched too.
            (&[], block(0, 100, 100, 1), Some("100.0 %")),
            // What fails with the base fails anyway.
            (&[block(1, 1000, 50, 1)], block(2, 1000, 60, 1), None),
            (
                &[block(1, 1000, 50, 1)],
                block(2, 1000, 61, 1),
                Some("5.0 % with the base"),
            ),
            // What another arm did is no measure.
            (
                &[block(2, 1000, 500, 1)],
                block(2, 1000, 500, 1),
                Some("500 of"),
            ),
            (&slow_base, block(2, 200, 0, 39), None),
            (&slow_base, block(2, 200, 0, 45), Some("45")),
            (&slow_base, block(2, 199, 0, 4000), None),
            (&slow_base[..2], block(2, 200, 0, 4000), None),
            (&[], block(2, 200, 0, 4000), None),
            // Four times the base's, but nobody notices.
            (&[block(0, 200, 0, 1)], block(2, 200, 0, 4), None),
            (
                &[block(0, 200, 0, 1)],
                block(2, 200, 0, 7),
                Some("--max-p99"),
            ),
        ] {
            let objection = objection(&design(), earlier, &present);
            match why {
                None => assert_eq!(objection, None),
                Some(why) => {
                    let text = objection.unwrap_or_else(|| panic!("no objection: {why}"));
                    assert!(text.contains(why), "{text}");
                }
            }
        }
    }
}
