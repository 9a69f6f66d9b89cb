//! What a comparison on live traffic is to be like.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::mode::Arm,
    error::{Error, Result},
};

/// The shortest block: in less, hardly anything happens.
const SHORTEST_BLOCK: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_BLOCK: Duration = Duration::from_secs(3600);
/// The most blocks in all: everything that was measured is kept, some KiB for each.
const MOST_BLOCKS: u64 = 1000;

/// What to compare, for how long, and when to give up. In JSON every field may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ComparePlan {
    /// The arms as they are written: `handoff/least-loaded`, `shared`. The first is the base, which runs
    /// twice in each round. None: the one in force, and all others that are possible.
    pub(crate) arms: Vec<String>,
    /// How long each arm is in force at a time, milliseconds.
    pub(crate) block_ms: u64,
    /// How often each arm has its turn.
    pub(crate) rounds: u32,
    /// The guard: the largest share of requests that may fail, over what fails with the base (0 to 1).
    pub(crate) max_error_rate: f64,
    /// The guard: the largest p99, as a multiple of the base's.
    pub(crate) max_p99: f64,
    /// At the beginning of each block, ask clients to connect anew, so that the arm under test dispatches
    /// those too that keep their connections.
    pub(crate) renew: bool,
    /// Go on even if whoever asked has gone?
    pub(crate) unattended: bool,
}

impl Default for ComparePlan {
    fn default() -> Self {
        Self {
            arms: Vec::new(),
            block_ms: 10_000,
            rounds: 12,
            max_error_rate: 0.01,
            max_p99: 2.0,
            renew: false,
            unattended: false,
        }
    }
}

impl ComparePlan {
    /// How long each arm is in force at a time.
    pub(crate) fn block(&self) -> Duration {
        Duration::from_millis(self.block_ms)
    }

    /// The arms that were named; empty: none were.
    ///
    /// # Errors
    /// The plan makes no sense: an arm that there is not or that is named twice, or a number out of its
    /// range.
    pub(crate) fn check(&self) -> Result<Vec<Arm>> {
        let mut arms = Vec::new();
        for name in &self.arms {
            let arm: Arm = name
                .parse()
                .map_err(|error| Error::usage(format!("--arms: {error}")))?;
            if arms.contains(&arm) {
                return Err(Error::usage(format!(
                    "--arms: {arm} is named twice; the first one runs twice in each round by itself"
                )));
            }
            arms.push(arm);
        }
        if !(SHORTEST_BLOCK..=LONGEST_BLOCK).contains(&self.block()) {
            return Err(Error::usage(format!(
                "--block {} ms: it takes {} ms to {} s",
                self.block_ms,
                SHORTEST_BLOCK.as_millis(),
                LONGEST_BLOCK.as_secs()
            )));
        }
        if self.rounds == 0 {
            return Err(Error::usage("--rounds 0: there must be one at least"));
        }
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            return Err(Error::usage(format!(
                "--max-error-rate {}: it is a share, 0 to 1; 0.01 is one request in a hundred",
                self.max_error_rate
            )));
        }
        if !(self.max_p99.is_finite() && self.max_p99 >= 1.0) {
            return Err(Error::usage(format!(
                "--max-p99 {}: it is a multiple of the base's p99, 1 or more",
                self.max_p99
            )));
        }
        Ok(arms)
    }

    /// Is there room for what so many arms, the base's twin among them, would bring?
    ///
    /// # Errors
    /// There is not.
    pub(crate) fn check_length(&self, arms: usize) -> Result<()> {
        let blocks = u64::from(self.rounds) * arms as u64;
        if blocks > MOST_BLOCKS {
            return Err(Error::usage(format!(
                "--rounds {} of {arms} arms are {blocks} blocks, and all that was measured is kept: {MOST_BLOCKS} are the most, so longer blocks, or fewer rounds or arms",
                self.rounds
            )));
        }
        Ok(())
    }

    /// The command line that asks for the same.
    pub(crate) fn command(&self) -> String {
        let mut command = String::from("pointsman ctl compare");
        if !self.arms.is_empty() {
            command += &format!(" --arms {}", self.arms.join(","));
        }
        command
            + &format!(
                " --block {}s --rounds {} --max-error-rate {} --max-p99 {}",
                self.block().as_secs_f64(),
                self.rounds,
                self.max_error_rate,
                self.max_p99
            )
            + if self.renew { " --renew" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_and_the_way_out_named() {
        let with = |change: fn(&mut ComparePlan)| {
            let mut plan = ComparePlan::default();
            change(&mut plan);
            plan
        };
        assert_eq!(ComparePlan::default().check().expect("sense"), []);
        for (plan, why) in [
            (with(|p| p.arms = vec!["fast".into()]), "unknown arm"),
            (with(|p| p.arms = vec!["".into()]), "unknown arm"),
            (
                with(|p| p.arms = vec!["shared".into(), "shared".into()]),
                "named twice",
            ),
            (
                with(|p| p.arms = vec!["handoff".into(), "handoff/least-loaded".into()]),
                "named twice",
            ),
            (with(|p| p.block_ms = 99), "100 ms"),
            (with(|p| p.block_ms = u64::MAX), "3600 s"),
            (with(|p| p.rounds = 0), "one at least"),
            (with(|p| p.max_error_rate = -0.1), "0 to 1"),
            (with(|p| p.max_error_rate = f64::NAN), "0 to 1"),
            (with(|p| p.max_p99 = 0.9), "1 or more"),
            (with(|p| p.max_p99 = f64::INFINITY), "1 or more"),
        ] {
            let error = plan.check().expect_err(why);
            assert!(
                error.is_usage() && error.to_string().contains(why),
                "{error}"
            );
        }
        let long = with(|p| p.rounds = 112);
        assert!(long.check_length(9).is_err(), "1008 blocks");
        assert!(long.check_length(2).is_ok());
    }
}
