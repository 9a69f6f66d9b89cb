//! Comparisons: several ways to do the same thing (*arms*), measured in turn in short blocks, and what
//! can be said of them. Pure: whoever measures, `pointsman bench`, a running master or the comparison
//! with other proxies, fills a [`Comparison`]; [`Comparison::summarise`] judges it, and `report` shows it.
//!
//! Each round visits every arm once, in an order that rotates, and ratios are taken within a round: a
//! machine that is slow for a while is slow for all arms of that round. The first arm is the *base*; it
//! usually runs twice in each round, and what its twin differs by is the noise floor.

mod arms;
mod order;
mod recommendation;
pub mod report;
mod rounds;
pub mod statistics;
mod summary;
mod words;

use serde::{Deserialize, Serialize};

pub use self::order::order;

use crate::{processes::Usage, scoreboard::histogram::Snapshot};

/// Everything that was measured. Raw: what is said about it is made of this and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Where it was measured.
    pub source: Source,
    /// The name of the load: a scenario of `bench`, or `live`.
    pub scenario: String,
    /// The load in words.
    pub load: String,
    /// Where and how.
    pub circumstances: Circumstances,
    /// What was compared. The first is the base.
    pub arms: Vec<Arm>,
    /// What was measured, in that order.
    pub blocks: Vec<Block>,
    /// Rounds that were planned.
    pub rounds: u32,
    /// How it ended.
    pub ending: Ending,
}

/// Where a comparison was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// With load of our own.
    Bench,
    /// On live traffic.
    Live,
    /// With load of our own, on several proxies.
    Peers,
}

/// What somebody needs to know to judge, or to repeat, a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// Our version.
    pub version: String,
    /// The command line.
    pub command: String,
    /// All chance in it comes from this.
    pub seed: u64,
    /// When it began, seconds since 1970.
    pub began: u64,
    /// The processor's name.
    pub processor: String,
    /// Cores that could be used.
    pub cores: usize,
    /// The kernel's name and release.
    pub kernel: String,
    /// Whatever else there is to know, in sentences.
    pub notes: Vec<String>,
}

/// One of the things that are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What it is called: `handoff/least-loaded`, `nginx`.
    pub name: String,
    /// It is this other arm once more: what the two differ by is noise.
    pub twin_of: Option<usize>,
    /// The lines of a configuration file that choose it; none where it is not ours.
    pub configuration: Option<String>,
}

/// How a comparison ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case")]
pub enum Ending {
    /// It is still going on.
    Running,
    /// As planned.
    Complete,
    /// Somebody ended it before.
    Interrupted,
    /// It was ended because clients fared worse.
    Guarded {
        /// What the guard saw.
        why: String,
    },
    /// Something broke.
    Failed {
        /// What.
        why: String,
    },
}

/// How requests came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "drive", rename_all = "kebab-case")]
pub enum Drive {
    /// Each client sends its next request when it has its answer: shows capacity.
    Closed,
    /// By a plan that waits for nobody: shows latency, counted from the planned moment.
    Open {
        /// Requests a second.
        rate: f64,
    },
    /// From real clients. Latencies are the server's.
    Live,
}

/// What one arm did in one stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Which arm.
    pub arm: usize,
    /// In which round, from 1.
    pub round: u32,
    /// Its place in the round, from 1.
    pub position: u32,
    /// How requests came.
    pub drive: Drive,
    /// When measuring began, seconds since the comparison did.
    pub began: f64,
    /// For how long it was measured, seconds.
    pub seconds: f64,
    /// Requests answered as they should be.
    pub requests: u64,
    /// Requests that were not.
    pub errors: u64,
    /// Connections opened.
    pub connections: u64,
    /// What all processes of the program used.
    pub used: Usage,
    /// Threads that ended in between: their last share is missing in `used`.
    pub lost_threads: usize,
    /// How long requests took.
    pub latency: Snapshot,
    /// From accepted by the master to claimed by the worker.
    pub handoff: Snapshot,
    /// Open connections of each worker, now and then.
    pub open: Vec<Open>,
    /// Share of the requests that came over connections which this arm itself had dispatched (0 to 1):
    /// on live traffic connections outlast a block.
    pub own_share: f64,
}

/// Open connections at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// Seconds since the block began.
    pub at: f64,
    /// By worker.
    pub by_worker: Vec<u64>,
}

/// What a [`Comparison`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// One for each arm, in their order.
    pub arms: Vec<ArmSummary>,
    /// What two equal arms differ by; `None`: there was no twin.
    pub floor: Option<Floor>,
    /// What to do.
    pub recommendation: Recommendation,
}

/// The noise floor: how far from 1 the interval around the ratio of two equal arms reaches. 0.02 is 2 %: from
/// 1/1.02 to 1.02.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Of requests a second.
    pub throughput: Option<f64>,
    /// Of CPU time for a request.
    pub cpu: Option<f64>,
    /// Of the median latency.
    pub p50: Option<f64>,
    /// Of the latency that one request in a hundred exceeds.
    pub p99: Option<f64>,
}

/// What is said of one arm. Each number is a median over blocks, but for counts, which are sums, and
/// latencies, which are of all its requests together. `None`: there is nothing to make it of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Its name.
    pub name: String,
    /// It is another arm once more.
    pub twin_of: Option<usize>,
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests a second.
    pub requests_per_second: Option<f64>,
    /// CPU time of all processes, microseconds for a request.
    pub cpu_us_per_request: Option<f64>,
    /// Seconds.
    pub p50: Option<f64>,
    /// Seconds.
    pub p90: Option<f64>,
    /// Seconds.
    pub p99: Option<f64>,
    /// Seconds.
    pub p999: Option<f64>,
    /// The busiest worker's open connections by the mean of all.
    pub busiest_over_mean: Option<f64>,
    /// Standard deviation of the workers' open connections.
    pub open_deviation: Option<f64>,
    /// Median hand-over, seconds.
    pub handoff_p50: Option<f64>,
    /// The slowest hundredth of hand-overs, seconds.
    pub handoff_p99: Option<f64>,
    /// Time waited for a core, microseconds for a request.
    pub run_queue_us_per_request: Option<f64>,
    /// For a request.
    pub wakeups_per_request: Option<f64>,
    /// For a request.
    pub preempted_per_request: Option<f64>,
    /// Share of the requests that came over its own connections.
    pub own_share: Option<f64>,
    /// Against the base: more is better.
    pub throughput: Option<Contrast>,
    /// Against the base: less is better.
    pub cpu: Option<Contrast>,
    /// Against the base: less is better.
    pub latency_p50: Option<Contrast>,
    /// Against the base: less is better.
    pub latency_p99: Option<Contrast>,
    /// In words.
    pub words: String,
}

/// One arm against the base: the geometric mean of the ratios of all rounds but the lowest and the highest seventh,
/// and an interval that holds the true one 95 times in 100. Without one (too few rounds,
/// or hardly two that differ) its ends are those of the rounds' ratios.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// 1.05 is 5 % more than the base.
    pub ratio: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rounds that it is made of.
    pub rounds: usize,
    /// What can be said.
    pub verdict: Verdict,
}

/// What can be said of two arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does better than the base.
    Better,
    /// It does worse.
    Worse,
    /// No difference can be told: the interval holds 1, or the effect is below the noise floor.
    NoDifference,
    /// Too few rounds to say anything.
    TooLittle,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The arm to choose; `None`: nothing can be said.
    pub arm: Option<usize>,
    /// Which, and why, in plain words.
    pub text: String,
    /// What to put into the configuration.
    pub configuration: Option<String>,
}

/// What `/comparison` and `--json` show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub comparison: Comparison,
    /// What it says.
    pub summary: Summary,
}

#[cfg(test)]
mod tests;
