//! The guard: do clients fare worse than the limits of a comparison allow? Pure.
//!
//! It looks hundreds of times, often at few requests, and each time chance has a go at it. So it objects only to
//! what is beyond a limit *and* would hardly ever be seen if it were as with the base.

use std::time::Duration;

use super::design::Design;
use crate::{compare::Block, scoreboard::histogram::Snapshot};

/// Where there is no base to compare with, a share of fewer requests says nothing.
const REQUESTS_FOR_ERRORS: u64 = 100;
/// A base's p99 of fewer requests says nothing.
const REQUESTS_FOR_P99: u64 = 200;
/// By how much a p99 must be above the base's, however many times that is: where answers take
/// microseconds, a busy moment of the machine makes many times that of them, and nobody notices.
const NOTICEABLE: Duration = Duration::from_millis(5);
/// What chance brings less than once in 100,000 looks is none: a natural logarithm.
const HARDLY_EVER: f64 = 11.5;

/// Why the comparison must end, if it must: `block` is what was measured of the present block, `before` the
/// same at the last look, `earlier` are all blocks before it.
pub(super) fn objection(
    design: &Design,
    earlier: &[Block],
    block: &Block,
    before: Option<&Block>,
) -> Option<String> {
    let mut base = Pool::default();
    earlier
        .iter()
        // Traffic changes in the course of a day: what the base did long ago is no measure.
        .filter(|b| design.is_base(b.arm) && b.round + 1 >= block.round)
        .for_each(|b| base.add(b));
    if base.all() == 0 && design.arms[block.arm] == design.in_force {
        // Nothing has been changed yet: what fails now failed before.
        return None;
    }
    failing(design, &base, block).or_else(|| slow(design, &base, block, before?))
}

/// More requests fail than may.
fn failing(design: &Design, base: &Pool, block: &Block) -> Option<String> {
    let (failed, all) = (block.errors, block.requests + block.errors);
    let is_telling = match base.all() {
        0 => all >= REQUESTS_FOR_ERRORS,
        of_base => is_no_chance((failed, all), (base.errors, of_base)),
    };
    let share = share(failed, all);
    let limit = design.plan.max_error_rate;
    if !is_telling || share <= base.share() + limit {
        return None;
    }
    let over = match base.share() {
        0.0 => String::new(),
        share => format!(" more than the {} with the base", percent(share)),
    };
    Some(format!(
        "with {}, round {}, {failed} of {all} requests failed ({}): --max-error-rate allows {}{over}",
        design.arms[block.arm],
        block.round,
        percent(share),
        percent(limit)
    ))
}

/// Answers take longer than they may, and did so at the last look and since: a moment in which the machine
/// stood still is no arm's fault.
fn slow(design: &Design, base: &Pool, block: &Block, before: &Block) -> Option<String> {
    let limit = design.plan.max_p99;
    let normal = base.p99()?;
    let times = Duration::try_from_secs_f64(normal.as_secs_f64() * limit);
    let allowed = times
        .unwrap_or(Duration::MAX)
        .max(normal.saturating_add(NOTICEABLE));
    let of_base = (base.latency.longer_than(allowed), base.latency.count());
    let is_slow = |latency: &Snapshot| {
        let found = (latency.longer_than(allowed), latency.count());
        latency.quantile(0.99).is_some_and(|p99| p99 > allowed) && is_no_chance(found, of_base)
    };
    let since = block.latency.since(&before.latency);
    let now = block.latency.quantile(0.99)?;
    (is_slow(&before.latency) && is_slow(&since)).then(|| {
        format!(
            "with {}, round {}, one request in a hundred took {} or more, with the base {}: --max-p99 allows {limit} times that",
            design.arms[block.arm],
            block.round,
            milliseconds(now),
            milliseconds(normal),
        )
    })
}

/// Would more bad ones than with the base, as many as in `present`, hardly ever be found where there is no
/// difference? Both are (bad ones, all).
///
/// If there is none, each bad one is one of the present with the probability of their share of all: a binomial
/// (Przyborowski and Wilenski, 1940), here with Chernoff's bound for its tail.
fn is_no_chance(present: (u64, u64), base: (u64, u64)) -> bool {
    let bad = (present.0 + base.0) as f64;
    let found = share(present.0, present.0 + base.0);
    let expected = share(present.1, present.1 + base.1);
    let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    let distance = part(found, expected) + part(1.0 - found, 1.0 - expected);
    found > expected && bad * distance > HARDLY_EVER
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
        share(self.errors, self.all())
    }

    /// `None`: too few to say.
    fn p99(&self) -> Option<Duration> {
        let enough = self.latency.count() >= REQUESTS_FOR_P99;
        self.latency.quantile(0.99).filter(|_| enough)
    }
}

/// A share; 0 of nothing.
fn share(some: u64, all: u64) -> f64 {
    some as f64 / all.max(1) as f64
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
        random::Random,
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
            in_force: Arm::ALL[1],
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
            // Nothing is changed yet, and requests fail as they did before.
            (&[], block(0, 100, 100, 1), None),
            // Later the base itself is watched too.
            (
                &[block(0, 100, 0, 1)],
                block(1, 100, 100, 1),
                Some("100.0 %"),
            ),
            // Few, but all of them, where none failed.
            (&[block(0, 90, 0, 1)], block(2, 45, 45, 1), Some("45 of 45")),
            // What fails with the base fails anyway, and chance makes it a few more.
            (&[block(1, 1000, 50, 1)], block(2, 1000, 60, 1), None),
            (&[block(1, 1000, 50, 1)], block(2, 1000, 70, 1), None),
            (&[block(1, 1000, 5, 1)], block(2, 100, 2, 1), None),
            (
                &[block(1, 10_000, 500, 1)],
                block(2, 10_000, 700, 1),
                Some("5.0 % with the base"),
            ),
            // Certainly more, but allowed.
            (
                &[block(1, 100_000, 500, 1)],
                block(2, 100_000, 1400, 1),
                None,
            ),
            // What another arm did is no measure.
            (
                &[block(1, 1000, 0, 1), block(2, 1000, 500, 1)],
                block(2, 1000, 500, 1),
                Some("500 of"),
            ),
            (&slow_base, block(2, 200, 0, 39), None),
            (&slow_base, block(2, 200, 0, 45), Some("45")),
            (&slow_base, block(2, 50, 0, 4000), Some("4063")),
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
            let before = sooner(&present);
            let objection = objection(&design(), earlier, &present, Some(&before));
            match why {
                None => assert_eq!(objection, None),
                Some(why) => {
                    let text = objection.unwrap_or_else(|| panic!("no objection: {why}"));
                    assert!(text.contains(why), "{text}");
                }
            }
        }
    }

    /// As `block` was at the look before: about half of it.
    fn sooner(block: &Block) -> Block {
        let mut before = block.clone();
        let ms = block.latency.quantile(0.5).expect("some");
        before.latency = Snapshot::default();
        // A bucket's edge belongs to the next one.
        (0..block.latency.count() / 2).for_each(|_| before.latency.record(ms.mul_f64(0.99)));
        before
    }

    #[test]
    fn one_bad_moment_is_no_objection() {
        let base = [block(0, 5000, 0, 2)];
        let quick = block(2, 1000, 0, 2);
        let mut stalled = quick.clone();
        (0..100).for_each(|_| stalled.latency.record(Duration::from_millis(80)));
        let mut quick_again = stalled.clone();
        (0..1000).for_each(|_| quick_again.latency.record(Duration::from_millis(2)));
        let mut stalled_again = quick_again.clone();
        (0..100).for_each(|_| stalled_again.latency.record(Duration::from_millis(80)));
        let mut and_again = stalled_again.clone();
        (0..100).for_each(|_| and_again.latency.record(Duration::from_millis(80)));
        let object = |now: &Block, before| objection(&design(), &base, now, before).is_some();
        assert!(!object(&stalled, None));
        assert!(!object(&stalled, Some(&quick)));
        assert!(!object(&quick_again, Some(&stalled)));
        assert!(object(&and_again, Some(&stalled_again)));
    }

    #[test]
    fn only_what_the_base_did_lately_is_a_measure() {
        let mut base = [block(0, 5000, 0, 100), block(0, 5000, 0, 2)];
        base[1].round = 7;
        let mut present = block(2, 1000, 0, 100);
        let before = sooner(&present);
        for (round, objects) in [(1, false), (7, true), (8, true), (9, false)] {
            present.round = round;
            let text = objection(&design(), &base[..], &present, Some(&before));
            assert_eq!(text.is_some(), objects, "round {round}: {text:?}");
        }
    }

    #[test]
    fn traffic_with_a_few_slow_and_failing_requests_is_left_alone() {
        // 0.7 % take 500 ms and 0.7 % fail, with every arm: what the limits are not far from.
        let mut random = Random::new(5);
        let mut traffic = |arm, round| {
            let mut looks = vec![blank(arm, round, 1, Duration::ZERO)];
            for i in 0..9 {
                let mut look: Block = looks[i].clone();
                for _ in 0..50 {
                    let slow = random.below(1000) < 7;
                    let ms = if slow { 500 } else { 5 };
                    look.latency.record(Duration::from_millis(ms));
                    match random.below(1000) < 7 {
                        true => look.errors += 1,
                        false => look.requests += 1,
                    }
                }
                looks.push(look);
            }
            looks
        };
        let mut design = design();
        design.in_force = Arm::ALL[0];
        for _ in 0..20 {
            let mut blocks = vec![traffic(0, 1).remove(9)];
            for round in 1..=12 {
                for arm in [1, 2, 2, 2, 2, 2, 2, 2, 0] {
                    let looks = traffic(arm, round);
                    for pair in looks.windows(2) {
                        let text = objection(&design, &blocks, &pair[1], Some(&pair[0]));
                        assert_eq!(text, None);
                    }
                    blocks.extend(looks.last().cloned());
                }
            }
        }
    }

    #[test]
    fn a_limit_as_large_as_can_be_allows_everything() {
        let mut design = design();
        design.plan.max_p99 = f64::MAX;
        let (base, present) = ([block(0, 200, 0, 1)], block(2, 200, 0, 60_000));
        let before = sooner(&present);
        assert_eq!(objection(&design, &base, &present, Some(&before)), None);
    }
}
