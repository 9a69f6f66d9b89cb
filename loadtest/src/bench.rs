//! The measurement: blocks of load against one arm after the other, round by round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::guard::Interrupt;
use crate::machine::{self, CoreTime};
use crate::peers::{LARGE, SMALL, Server};
use crate::proc::{Delta, Snapshot};
use crate::wrk::{self, Errors, Load};

/// The unmeasured block of each arm that opens its connections and fills its caches.
const WARM_UP: Duration = Duration::from_secs(1);

/// Rest before each reading: what the block has set going belongs to the block, and the kernel
/// brings a thread's time up to date when it leaves the core.
const SETTLE: Duration = Duration::from_millis(50);

/// What a block costs beyond its load, for the time left.
const OVERHEAD: Duration = Duration::from_millis(200);

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Small answers on connections that stay
    Keepalive,
    /// Small answers, each on a connection of its own
    PerConnection,
    /// Answers of 64 KiB on connections that stay
    Bodies,
}

impl Scenario {
    pub(crate) const ALL: [Self; 3] = [Self::Keepalive, Self::PerConnection, Self::Bodies];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::PerConnection => "per-connection",
            Self::Bodies => "bodies",
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Keepalive => "100-byte answers, connections kept",
            Self::PerConnection => "100-byte answers, one connection per request",
            Self::Bodies => "65,536-byte answers, connections kept",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Keepalive | Self::PerConnection => SMALL,
            Self::Bodies => LARGE,
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u64,
    pub(crate) connections: u32,
    pub(crate) proxy_core: usize,
    pub(crate) load_core: usize,
}

/// One block, measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Block {
    pub(crate) scenario: Scenario,
    pub(crate) round: u32,
    /// Place in the order of its round.
    pub(crate) position: usize,
    pub(crate) arm: String,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_ns: u64,
    pub(crate) cpu_us_per_request: f64,
    pub(crate) context_switches: u64,
    pub(crate) context_switches_per_request: f64,
    /// CPU time of the proxy by wall time: 1 is a core in full use.
    pub(crate) busy: f64,
    /// Share of the proxy core that something else than this comparison took.
    pub(crate) foreign_on_proxy_core: f64,
    /// The same of the load core, where it slows down the load.
    pub(crate) foreign_on_load_core: f64,
    pub(crate) errors: Errors,
    /// Threads of the proxy that ended during the block; their last share of time is missing.
    pub(crate) lost_threads: usize,
}

/// Measures everything in `plan`, adding to `blocks` as it goes: what was measured before an
/// error or an interruption is not lost.
pub(crate) fn run(
    plan: &Plan,
    servers: &mut [Server],
    upstream: &Server,
    interrupt: &Interrupt,
    blocks: &mut Vec<Block>,
) -> Result<()> {
    let mut progress = Progress::new(plan, servers.len());
    for &scenario in &plan.scenarios {
        for server in servers.iter_mut() {
            progress.say(&format!("{}: warm-up of {}", scenario.name(), server.name));
            block(plan, scenario, server, upstream, WARM_UP, interrupt)?;
            progress.done(WARM_UP);
        }
        for round in 0..plan.rounds {
            for (position, index) in order(round, servers.len()).enumerate() {
                let server = &mut servers[index];
                progress.say(&format!(
                    "{}: round {} of {}: {}",
                    scenario.name(),
                    round + 1,
                    plan.rounds,
                    server.name
                ));
                let duration = Duration::from_secs(plan.seconds);
                let measured = block(plan, scenario, server, upstream, duration, interrupt)?;
                blocks.push(Block {
                    round: round + 1,
                    position: position + 1,
                    ..measured
                });
                progress.done(duration);
            }
        }
    }
    progress.end();
    Ok(())
}

/// The order of the arms in a round: each arm comes first, second, … equally often.
fn order(round: u32, arms: usize) -> impl Iterator<Item = usize> {
    let first = round as usize % arms;
    (first..arms).chain(0..first)
}

/// Load on one arm, and what it took. Round and position are the caller's.
fn block(
    plan: &Plan,
    scenario: Scenario,
    server: &mut Server,
    upstream: &Server,
    duration: Duration,
    interrupt: &Interrupt,
) -> Result<Block> {
    let load = Load {
        core: plan.load_core,
        connections: plan.connections,
        duration,
        url: format!("http://127.0.0.1:{}{}", server.port, scenario.path()),
        connection_per_request: scenario == Scenario::PerConnection,
    };
    server.check_alive()?;
    interrupt.sleep(SETTLE)?;
    let before = Reading::take(plan, server, upstream)?;
    let outcome = wrk::run(&load, interrupt).with_context(|| format!("load on {}", server.name))?;
    interrupt.sleep(SETTLE)?;
    let after = Reading::take(plan, server, upstream);
    server.check_alive()?;
    let taken = after?.since(&before);
    let delta = taken.proxy;
    if outcome.requests == 0 {
        bail!(
            "{} answered nothing in {:?} ({} errors)",
            server.name,
            duration,
            outcome.errors
        );
    }
    let requests = outcome.requests as f64;
    let seconds = requests / outcome.requests_per_second;
    Ok(Block {
        scenario,
        round: 0,
        position: 0,
        arm: server.name.clone(),
        requests: outcome.requests,
        requests_per_second: outcome.requests_per_second,
        cpu_ns: delta.used.cpu_ns,
        cpu_us_per_request: delta.used.cpu_ns as f64 / 1e3 / requests,
        context_switches: delta.used.switches,
        context_switches_per_request: delta.used.switches as f64 / requests,
        busy: delta.used.cpu_ns as f64 / 1e9 / seconds,
        foreign_on_proxy_core: taken.foreign_on_proxy_core,
        foreign_on_load_core: taken.foreign_on_load_core,
        errors: outcome.errors,
        lost_threads: delta.lost_threads,
    })
}

/// All that is read before and after a block.
struct Reading {
    proxy: Snapshot,
    upstream: Snapshot,
    /// Of which only `wrk` ends between two readings.
    children: Duration,
    proxy_core: CoreTime,
    load_core: CoreTime,
    at: Instant,
}

/// What lies between two readings.
struct Taken {
    proxy: Delta,
    foreign_on_proxy_core: f64,
    foreign_on_load_core: f64,
}

impl Reading {
    fn take(plan: &Plan, server: &Server, upstream: &Server) -> Result<Self> {
        let snapshot = |server: &Server| {
            Snapshot::take(server.pid())
                .with_context(|| format!("reading the CPU time of {}", server.name))
        };
        Ok(Self {
            proxy: snapshot(server)?,
            upstream: snapshot(upstream)?,
            children: machine::children_cpu()?,
            proxy_core: CoreTime::read(plan.proxy_core)?,
            load_core: CoreTime::read(plan.load_core)?,
            at: Instant::now(),
        })
    }

    fn since(&self, earlier: &Self) -> Taken {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        let proxy = self.proxy.since(&earlier.proxy);
        let upstream = self.upstream.since(&earlier.upstream);
        let wrk = self.children.saturating_sub(earlier.children);
        let proxy_share = proxy.used.cpu_ns as f64 / 1e9 / wall;
        let load_share = (upstream.used.cpu_ns as f64 / 1e9 + wrk.as_secs_f64()) / wall;
        let foreign = |busy: f64, ours: f64| (busy - ours).max(0.0);
        Taken {
            proxy,
            foreign_on_proxy_core: foreign(
                self.proxy_core.busy_since(earlier.proxy_core),
                proxy_share,
            ),
            foreign_on_load_core: foreign(self.load_core.busy_since(earlier.load_core), load_share),
        }
    }
}

/// Tells a person what is going on and how long it is going to take.
struct Progress {
    left: Duration,
    started: Instant,
}

impl Progress {
    fn new(plan: &Plan, arms: usize) -> Self {
        let arms = u32::try_from(arms).unwrap_or(u32::MAX);
        let scenarios = u32::try_from(plan.scenarios.len()).unwrap_or(u32::MAX);
        let block = Duration::from_secs(plan.seconds) + OVERHEAD;
        let scenario =
            (block.saturating_mul(plan.rounds) + WARM_UP + OVERHEAD).saturating_mul(arms);
        Self {
            left: scenario.saturating_mul(scenarios),
            started: Instant::now(),
        }
    }

    fn say(&self, what: &str) {
        let left = self.left.as_secs();
        eprintln!("[{:>3}:{:02} left] {what}", left / 60, left % 60);
    }

    fn done(&mut self, load: Duration) {
        self.left = self.left.saturating_sub(load + OVERHEAD);
    }

    fn end(&self) {
        eprintln!("[done in {} s]", self.started.elapsed().as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_has_every_place_once() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| order(round, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(order(7, 3).next(), Some(1));
    }
}
