//! What is to be done.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use crate::{
    compare::Drive,
    error::{Error, Result},
    load::Scenario,
};

/// With fewer rounds nothing could be said.
pub const FEWEST_ROUNDS: u32 = 5;

/// The share of what the slowest arm can do that open load asks of all of them: a queue at a server that is
/// never quite idle says what it is like to be its client; one at a server that is full says how long the
/// block was.
const OPEN_SHARE: f64 = 0.5;

/// What a block takes beside its measuring and its warm-up: a process is started, connections go. What it
/// really takes is known after the trial.
const AROUND_BLOCK: Duration = Duration::from_millis(150);

/// The trial's blocks are this long at most.
const LONGEST_TRIAL: Duration = Duration::from_millis(500);

/// One scenario.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary that has `load` for a subcommand.
    pub program: PathBuf,
    /// What kind of load.
    pub scenario: Scenario,
    /// The `Host` field.
    pub host: String,
    /// The path of a usual request.
    pub path: String,
    /// The path of a slow one, in [`Scenario::Mixed`].
    pub slow_path: String,
    /// One arm is to be slower on purpose.
    pub planted: Option<Planted>,
    /// Clients at once.
    pub clients: u32,
    /// Addresses that they come from.
    pub addresses: u32,
    /// How requests come.
    pub loops: Loops,
    /// Requests a second of open load; `None`: half of what the slowest arm can do.
    pub rate: Option<f64>,
    /// Are arrivals of open load a Poisson process? Else they are evenly spaced.
    pub poisson: bool,
    /// Before each block: connections are opened, caches filled.
    pub warm_up: Duration,
    /// For how long each block is measured.
    pub block: Duration,
    /// How much of it.
    pub extent: Extent,
    /// How long an answer may take.
    pub timeout: Duration,
    /// All chance in it comes from this.
    pub seed: u64,
    /// The cores that the clients may use; none: all that we may.
    pub load_cores: Vec<usize>,
}

/// A difference that is there because we made it: does the method find it?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    /// Which arm.
    pub arm: usize,
    /// The path that its requests have instead.
    pub path: String,
}

/// How requests come in each visit to an arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loops {
    /// One closed block, then an open one.
    Both,
    /// One closed block.
    Closed,
    /// One open block.
    Open,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As many rounds as this much time is enough for, with everything that belongs to it.
    Time(Duration),
    /// So many rounds.
    Rounds(u32),
}

impl Plan {
    /// How long the load of a block goes on before it is measured, if nobody says otherwise.
    pub fn usual_warm_up(scenario: Scenario, block: Duration) -> Duration {
        match scenario {
            // Connections are opened one by one meanwhile.
            Scenario::LongLived => block,
            _ => block / 4,
        }
    }

    /// Is it possible at all?
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub fn check(&self, arms: usize) -> Result<()> {
        match self.extent {
            Extent::Rounds(rounds) if rounds < FEWEST_ROUNDS => Err(Error::usage(format!(
                "{rounds} rounds are too few to say anything: at least {FEWEST_ROUNDS}"
            ))),
            Extent::Time(time) if time < self.least_time(arms) => Err(Error::usage(format!(
                "{:.0} s for '{}' are not enough for {FEWEST_ROUNDS} rounds of {arms} arms (one of them \
                 measured twice), which take {:.0} s: a longer --duration, a shorter --block, or fewer --arms",
                time.as_secs_f64(),
                self.scenario.name(),
                self.least_time(arms).as_secs_f64().ceil(),
            ))),
            _ => Ok(()),
        }
    }

    /// About how long it takes at least, with so many arms, twins included.
    pub fn least_time(&self, arms: usize) -> Duration {
        let round = arms as u32 * self.visit(AROUND_BLOCK * self.drives());
        self.trial_time(arms) + FEWEST_ROUNDS * round
    }

    /// About how long it takes, with so many arms, twins included.
    pub fn time(&self, arms: usize) -> Duration {
        match self.extent {
            Extent::Time(time) => time,
            Extent::Rounds(rounds) => {
                let round = arms as u32 * self.visit(AROUND_BLOCK * self.drives());
                self.trial_time(arms) + rounds * round
            }
        }
    }

    fn trial_time(&self, arms: usize) -> Duration {
        arms as u32 * (self.warm_up + self.trial_block() + AROUND_BLOCK)
    }

    /// How long the blocks of the trial are, in which nothing counts.
    pub(super) fn trial_block(&self) -> Duration {
        self.block.min(LONGEST_TRIAL)
    }

    /// Blocks in each visit.
    fn drives(&self) -> u32 {
        match self.loops {
            Loops::Both => 2,
            Loops::Closed | Loops::Open => 1,
        }
    }

    /// How long a visit to an arm takes; `around`: all of it that is neither measured nor warm-up.
    fn visit(&self, around: Duration) -> Duration {
        around + self.drives() * (self.warm_up + self.block)
    }

    /// How many rounds, now that it is known what a block takes beside its measuring, and how much of the
    /// time is gone.
    pub(super) fn rounds(&self, arms: usize, around_block: Duration, gone: Duration) -> u32 {
        match self.extent {
            Extent::Rounds(rounds) => rounds,
            Extent::Time(time) => {
                let round = arms as u32 * self.visit(around_block * self.drives());
                let rounds = time.saturating_sub(gone).as_secs_f64() / round.as_secs_f64();
                (rounds as u32).max(FEWEST_ROUNDS)
            }
        }
    }

    /// How requests come in each visit, one after the other; `rate`: of open load.
    pub(super) fn blocks(&self, rate: f64) -> Vec<Drive> {
        let open = Drive::Open { rate };
        match self.loops {
            Loops::Both => vec![Drive::Closed, open],
            Loops::Closed => vec![Drive::Closed],
            Loops::Open => vec![open],
        }
    }

    /// The rate of open load, if nobody said one, by what the arms did in the trial, requests a second.
    pub(super) fn usual_rate(trial: &[f64]) -> Option<(usize, f64)> {
        let slowest = trial.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1))?;
        Some((slowest.0, slowest.1 * OPEN_SHARE))
    }

    /// The path of usual requests to this arm.
    pub(super) fn path(&self, arm: usize) -> &str {
        match &self.planted {
            Some(planted) if planted.arm == arm => &planted.path,
            _ => &self.path,
        }
    }

    /// The load in words; `rate`: of open load, once it is known.
    pub(super) fn words(&self, rate: Option<f64>) -> String {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            n => format!("{n} clients"),
        };
        let mut words = format!("{clients}, {}", self.scenario.words());
        let open = || {
            let arrivals = match self.poisson {
                true => "as a Poisson process",
                false => "evenly spaced",
            };
            let rate = rate.map_or(String::new(), |rate| {
                format!("{rate:.0} requests a second ")
            });
            format!("{rate}{arrivals}, latency counted from the planned moment")
        };
        let _ = match self.loops {
            Loops::Closed => write!(words, "; closed loop"),
            Loops::Open => write!(words, "; open loop: {}", open()),
            Loops::Both => write!(words, "; closed loop, then open loop: {}", open()),
        };
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            program: PathBuf::new(),
            scenario: Scenario::Keepalive,
            host: "localhost".into(),
            path: "/".into(),
            slow_path: String::new(),
            planted: None,
            clients: 64,
            addresses: 64,
            loops: Loops::Both,
            rate: None,
            poisson: true,
            warm_up: Duration::from_millis(250),
            block: Duration::from_secs(1),
            extent: Extent::Time(Duration::from_secs(300)),
            timeout: Duration::from_secs(5),
            seed: 1,
            load_cores: Vec::new(),
        }
    }

    #[test]
    fn the_time_makes_the_rounds() {
        let plan = plan();
        let around = Duration::from_millis(50);
        // Two blocks of 1.3 s in each of nine visits: 23.4 s a round.
        assert_eq!(plan.rounds(9, around, Duration::from_secs(9)), 12);
        // Too few are measured anyhow: they were promised.
        assert_eq!(
            plan.rounds(9, around, Duration::from_secs(299)),
            FEWEST_ROUNDS
        );
        let fixed = Plan {
            extent: Extent::Rounds(7),
            ..plan
        };
        assert_eq!(fixed.rounds(9, around, Duration::from_secs(299)), 7);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        let mut plan = plan();
        plan.check(9).expect("five minutes are enough");
        plan.extent = Extent::Time(Duration::from_secs(60));
        let error = plan.check(9).expect_err("one is not").to_string();
        let wanted = plan.least_time(9).as_secs_f64().ceil();
        assert!(error.contains(&format!("take {wanted:.0} s")), "{error}");
        plan.extent = Extent::Time(Duration::from_secs_f64(wanted));
        plan.check(9).expect("what it says");
        plan.extent = Extent::Rounds(4);
        assert!(plan.check(2).is_err_and(|error| error.is_usage()));
    }

    #[test]
    fn open_load_asks_for_half_of_what_the_slowest_can_do() {
        assert_eq!(Plan::usual_rate(&[900.0, 800.0, 1000.0]), Some((1, 400.0)));
        assert_eq!(Plan::usual_rate(&[]), None);
    }

    #[test]
    fn the_load_is_told_in_words() {
        let plan = plan();
        let words = plan.words(Some(400.4));
        assert!(words.starts_with("64 clients, small answers on connections that stay;"));
        assert!(
            words.contains("closed loop") && words.contains("400 requests a second"),
            "{words}"
        );
        let closed = Plan {
            loops: Loops::Closed,
            ..plan
        };
        assert!(!closed.words(Some(1.0)).contains("open"));
        assert_eq!(closed.blocks(1.0), [Drive::Closed]);
    }
}
