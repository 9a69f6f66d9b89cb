//! When requests are due, in open load: a plan that knows nothing of answers. Pure.
//!
//! The plan is also the queue. An arrival stays in it until a client is free to send it, so a server
//! that stands still costs no memory, and cannot move what is planned.

use super::{Order, Scenario, random::Random};
use crate::compare::Drive;

/// Between two bursts.
const BURST_NS: f64 = 100e6;
/// In [`Scenario::Mixed`] one request in so many is a slow one.
pub(super) const SLOW_ONE_IN: usize = 10;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Nanoseconds since the load began.
    pub(super) at: u64,
    /// Is it one that takes the upstream long?
    pub(super) slow: bool,
}

/// All arrivals, in order, one at a time.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    spacing: Spacing,
    kinds: Option<Random>,
    next: Arrival,
}

/// How arrivals lie in time.
#[derive(Debug, Clone)]
enum Spacing {
    /// Evenly. Each moment is counted from the beginning, so that roundings do not add up.
    Even { gap_ns: f64, count: u64 },
    /// A Poisson process.
    Poisson {
        gap_ns: f64,
        at: u64,
        random: Random,
    },
    /// Many at one moment, then none until the next.
    Bursts {
        size: f64,
        /// For gaps of random length.
        random: Option<Random>,
        at: u64,
        /// Bursts so far.
        bursts: u64,
        /// Arrivals so far.
        count: u64,
    },
}

impl Plan {
    /// What `order` asks for; `None`: it is not open load.
    pub(super) fn new(order: &Order) -> Option<Self> {
        let Drive::Open { rate } = order.drive else {
            return None;
        };
        let mut seed = Random::new(order.seed);
        // Drawn in any case: the same seed gives the same kinds however arrivals lie in time.
        let (kinds, random) = (seed.fork(), seed.fork());
        let gap_ns = 1e9 / rate;
        let spacing = match (order.scenario, order.poisson) {
            (Scenario::Bursts, poisson) => Spacing::Bursts {
                size: BURST_NS / gap_ns,
                random: poisson.then_some(random),
                at: 0,
                bursts: 0,
                count: 0,
            },
            (_, true) => Spacing::Poisson {
                gap_ns,
                at: 0,
                random,
            },
            (_, false) => Spacing::Even { gap_ns, count: 0 },
        };
        let mut plan = Self {
            spacing,
            kinds: (order.scenario == Scenario::Mixed).then_some(kinds),
            next: Arrival { at: 0, slow: false },
        };
        plan.take();
        Some(plan)
    }

    /// The next one's moment.
    #[inline]
    pub(super) fn next_at(&self) -> u64 {
        self.next.at
    }

    /// The next one, which leaves the plan.
    #[inline]
    pub(super) fn take(&mut self) -> Arrival {
        let slow = self
            .kinds
            .as_mut()
            .is_some_and(|kinds| kinds.below(SLOW_ONE_IN) == 0);
        let next = Arrival {
            at: self.spacing.next(),
            slow,
        };
        std::mem::replace(&mut self.next, next)
    }
}

impl Spacing {
    fn next(&mut self) -> u64 {
        match self {
            Self::Even { gap_ns, count } => {
                *count += 1;
                (*count as f64 * *gap_ns).round() as u64
            }
            Self::Poisson { gap_ns, at, random } => {
                *at += random.exponential(*gap_ns);
                *at
            }
            Self::Bursts {
                size,
                random,
                at,
                bursts,
                count,
            } => {
                // A burst has as many as are owed by then: of 2.5 it is two and three by turns.
                while (*bursts as f64 * *size) < (*count + 1) as f64 {
                    *bursts += 1;
                    *at += match random {
                        Some(random) => random.exponential(BURST_NS),
                        None => BURST_NS as u64,
                    };
                }
                *count += 1;
                *at
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn plan(scenario: Scenario, rate: f64, poisson: bool, seed: u64) -> Plan {
        let order = Order {
            scenario,
            drive: Drive::Open { rate },
            poisson,
            seed,
            ..crate::load::tests::order()
        };
        Plan::new(&order).expect("open load")
    }

    /// What is planned within `time`.
    fn within(mut plan: Plan, time: Duration) -> Vec<Arrival> {
        let end = time.as_nanos() as u64;
        std::iter::from_fn(|| (plan.next_at() < end).then(|| plan.take())).collect()
    }

    #[test]
    fn closed_load_has_no_plan() {
        let order = crate::load::tests::order();
        assert_eq!(order.drive, Drive::Closed);
        assert!(Plan::new(&order).is_none());
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_for_ever() {
        let arrivals = within(
            plan(Scenario::Keepalive, 300.0, false, 1),
            Duration::from_secs(1000),
        );
        assert_eq!(arrivals.len(), 299_999);
        for (i, arrival) in arrivals.iter().enumerate() {
            let due = (i + 1) as f64 * 1e9 / 300.0;
            assert!((arrival.at as f64 - due).abs() <= 1.0, "{i}: {arrival:?}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_a_poisson_process() {
        for seed in 0..20 {
            let arrivals = within(
                plan(Scenario::Keepalive, 1000.0, true, seed),
                Duration::from_secs(100),
            );
            // 100,000 give or take five standard deviations of a Poisson count.
            let count = arrivals.len() as f64;
            assert!(
                (count - 1e5).abs() < 5.0 * 1e5_f64.sqrt(),
                "{seed}: {count}"
            );
            let gaps: Vec<f64> = arrivals
                .windows(2)
                .map(|pair| (pair[1].at - pair[0].at) as f64)
                .collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance =
                gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            // Gaps that have no memory spread as much as they are long.
            assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{seed}");
            let long = gaps.iter().filter(|gap| **gap > 2e6).count() as f64 / count;
            assert!((long - (-2.0_f64).exp()).abs() < 0.01, "{seed}: {long}");
        }
    }

    #[test]
    fn the_same_seed_plans_the_same_and_another_does_not() {
        let of = |seed| {
            within(
                plan(Scenario::Mixed, 500.0, true, seed),
                Duration::from_secs(5),
            )
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn one_in_ten_of_the_mixed_is_slow_and_none_of_the_others() {
        let slow = |scenario| {
            let arrivals = within(plan(scenario, 1000.0, true, 3), Duration::from_secs(50));
            let slow = arrivals.iter().filter(|arrival| arrival.slow).count();
            slow as f64 / arrivals.len() as f64
        };
        assert!((slow(Scenario::Mixed) - 0.1).abs() < 0.01);
        assert_eq!(slow(Scenario::Bodies), 0.0);
    }

    #[test]
    fn bursts_bring_all_that_is_owed_at_one_moment() {
        // 25 a second are two and a half for each of ten bursts.
        let arrivals = within(
            plan(Scenario::Bursts, 25.0, false, 1),
            Duration::from_millis(450),
        );
        let moments: Vec<u64> = arrivals.iter().map(|a| a.at / 1_000_000).collect();
        assert_eq!(moments, [100, 100, 200, 200, 200, 300, 300, 400, 400, 400]);
        // Fewer than one for each burst: some bring nobody.
        let rare = within(
            plan(Scenario::Bursts, 2.0, false, 1),
            Duration::from_millis(1600),
        );
        let moments: Vec<u64> = rare.iter().map(|a| a.at / 1_000_000).collect();
        assert_eq!(moments, [500, 1000, 1500]);
    }

    #[test]
    fn bursts_of_a_poisson_process_come_at_random_and_bring_as_many() {
        let arrivals = within(
            plan(Scenario::Bursts, 1000.0, true, 5),
            Duration::from_secs(100),
        );
        let mut moments: Vec<u64> = arrivals.iter().map(|arrival| arrival.at).collect();
        moments.dedup();
        // 1,000 bursts of 100, give or take five standard deviations.
        assert!((moments.len() as f64 - 1000.0).abs() < 160.0);
        assert_eq!(arrivals.len(), moments.len() * 100);
    }
}
