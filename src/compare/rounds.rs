//! Blocks, sorted: by arm and round, so that each arm's can be laid beside the base's of the same round.

use std::collections::BTreeMap;

use super::{Block, Comparison, Drive};
use crate::{processes::Usage, scoreboard::histogram::Snapshot};

/// All blocks of a comparison, by arm and round.
pub(super) struct Rounds {
    totals: BTreeMap<(usize, u32), Vec<Totals>>,
}

/// What one arm did in one round with requests coming in one way: a block, or several taken together.
#[derive(Debug, Clone)]
pub(super) struct Totals {
    pub(super) drive: Drive,
    pub(super) seconds: f64,
    pub(super) requests: u64,
    pub(super) used: Usage,
    pub(super) latency: Snapshot,
}

/// Which blocks a number is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those in which clients asked for as much as they could get, or for what they wanted.
    Demand,
    /// Those with planned arrivals.
    Planned,
}

impl Kind {
    /// Is a block with this drive of the kind?
    pub(super) fn holds(self, drive: Drive) -> bool {
        let planned = matches!(drive, Drive::Open { .. });
        planned == (self == Self::Planned)
    }
}

impl Rounds {
    /// Those of `comparison`.
    pub(super) fn of(comparison: &Comparison) -> Self {
        let mut totals: BTreeMap<_, Vec<Totals>> = BTreeMap::new();
        for block in &comparison.blocks {
            let blocks = totals.entry((block.arm, block.round)).or_default();
            match blocks.iter_mut().find(|t| t.drive == block.drive) {
                Some(total) => total.add(block),
                None => blocks.push(Totals::of(block)),
            }
        }
        Self { totals }
    }

    /// Everything that was measured of `arm`, round by round.
    pub(super) fn of_arm(&self, arm: usize) -> impl Iterator<Item = &Totals> {
        self.totals
            .range((arm, 0)..=(arm, u32::MAX))
            .flat_map(|(_, blocks)| blocks)
    }

    /// Has `arm` answered anything in blocks of this kind?
    pub(super) fn has(&self, arm: usize, kind: Kind) -> bool {
        self.of_arm(arm)
            .any(|t| kind.holds(t.drive) && t.requests > 0)
    }

    /// The log of `arm`'s value by `base`'s, for each round in which both have one under the same load; the
    /// mean of several, where a round has several loads.
    pub(super) fn log_ratios(
        &self,
        arm: usize,
        base: usize,
        kind: Kind,
        value: impl Fn(&Totals) -> Option<f64>,
    ) -> Vec<f64> {
        let log = |totals: &Totals| {
            value(totals)
                .filter(|x| *x > 0.0 && x.is_finite())
                .map(f64::ln)
        };
        let mine = self.totals.range((arm, 0)..=(arm, u32::MAX));
        mine.filter_map(|((_, round), blocks)| {
            let theirs = self.totals.get(&(base, *round))?;
            let pairs = blocks
                .iter()
                .filter(|mine| kind.holds(mine.drive))
                .filter_map(|mine| {
                    let same = theirs.iter().find(|theirs| theirs.drive == mine.drive)?;
                    Some(log(mine)? - log(same)?)
                });
            let pairs: Vec<f64> = pairs.collect();
            (!pairs.is_empty()).then(|| pairs.iter().sum::<f64>() / pairs.len() as f64)
        })
        .collect()
    }
}

impl Totals {
    fn of(block: &Block) -> Self {
        Self {
            drive: block.drive,
            seconds: block.seconds,
            requests: block.requests,
            used: block.used,
            latency: block.latency.clone(),
        }
    }

    fn add(&mut self, block: &Block) {
        self.seconds += block.seconds;
        self.requests += block.requests;
        self.used.cpu_ns += block.used.cpu_ns;
        self.used.waited_ns += block.used.waited_ns;
        self.used.wakeups += block.used.wakeups;
        self.used.preempted += block.used.preempted;
        self.latency.merge(&block.latency);
    }

    /// Requests a second.
    pub(super) fn throughput(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.requests as f64 / self.seconds)
    }

    /// Of CPU time, microseconds for a request. No program runs on none: then it was not measured.
    pub(super) fn cpu(&self) -> Option<f64> {
        self.for_a_request(self.used.cpu_ns as f64 / 1000.0)
            .filter(|us| *us > 0.0)
    }

    /// So much for each request.
    pub(super) fn for_a_request(&self, what: f64) -> Option<f64> {
        (self.requests > 0).then(|| what / self.requests as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::block, *};

    #[test]
    fn an_arm_is_laid_beside_the_base_of_the_same_round_and_load() {
        let mut comparison = super::super::tests::comparison(&["base", "other"]);
        let mut add = |arm, round, drive, requests| {
            comparison.blocks.push(Block {
                drive,
                requests,
                ..block(arm, round)
            });
        };
        let open = Drive::Open { rate: 100.0 };
        add(0, 1, Drive::Closed, 100);
        add(1, 1, Drive::Closed, 200);
        // Nothing to lay it beside: another load, no block, no request.
        add(0, 2, open, 100);
        add(1, 2, Drive::Closed, 300);
        add(1, 3, Drive::Closed, 300);
        add(0, 4, Drive::Closed, 0);
        add(1, 4, Drive::Closed, 300);
        // Twice in one round: taken together.
        add(1, 5, Drive::Closed, 300);
        add(1, 5, Drive::Closed, 500);
        add(0, 5, Drive::Closed, 100);
        let rounds = Rounds::of(&comparison);
        let logs = rounds.log_ratios(1, 0, Kind::Demand, Totals::throughput);
        let ratios: Vec<f64> = logs.into_iter().map(|log| log.exp().round()).collect();
        assert_eq!(ratios, [2.0, 4.0]);
        assert!(
            rounds
                .log_ratios(1, 0, Kind::Planned, Totals::throughput)
                .is_empty()
        );
        assert!(rounds.has(0, Kind::Planned) && !rounds.has(1, Kind::Planned));
    }
}
