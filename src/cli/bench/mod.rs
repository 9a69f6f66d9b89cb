//! `pointsman bench`: which mode and policy is best here, for traffic like mine?

mod machine;
mod measure;
mod output;
mod progress;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use self::{measure::Task, output::Output};
use crate::{
    Arm, Mode,
    bench::{self, Extent, Loops, OwnPlan, Plan, Planted},
    cli::duration::or_seconds,
    config::{Address, Endpoint, usable_cores},
    dispatch::name::UnknownName,
    error::{Error, Result},
    load::{MAX_RATE, Scenario},
    scoreboard::MAX_WORKERS,
};

/// Measure which mode and policy serves your kind of traffic best on this machine: all of them in
/// turn, again and again, with built-in load, and what can be told of it with confidence.
#[derive(Debug, Args)]
#[command(after_help = "\
Scenarios:
  per-connection  small answers, each on a connection of its own
  keepalive       small answers on connections that stay
  mixed           nine small answers in ten, one that takes the upstream long
  long-lived      connections that are opened one by one, mostly rest, and are closed at random
  bodies          answers of 64 KiB
  bursts          many connections at once, then none for a while

A cluster of its own is started on a free port of 127.0.0.1, with demo upstreams behind it unless \
--upstream names others. Every round visits every arm (a mode with its policy) once, in an order that \
changes; the first arm, the base, is visited twice, and what its two halves differ by is the noise \
floor: whatever is smaller than that cannot be told. In each visit clients first send as fast as they \
get answers (closed loop: capacity), then by a plan that waits for nobody (open loop: latency, counted \
from the planned moment, and CPU time, at a rate that is the same for all). A mode acts when a connection comes, so every visit has new \
connections. Load, upstreams and proxy share this machine, unless told apart with --proxy-cpus and \
--load-cpus.

Ctrl-C ends it with what there is so far; a second one ends it at once.

Examples:
  pointsman bench
  pointsman bench --scenario keepalive --upstream http://127.0.0.1:3000 --path /health
  pointsman bench --arms handoff/least-loaded,reuseport --scenario long-lived --workers 4
  pointsman bench --duration 20m --report results/ --csv blocks.csv

Exit codes: 0 there are results, 1 something failed, 2 wrong usage, 130 interrupted before anything \
was measured.")]
pub(super) struct Bench {
    /// What to compare, the base first: MODE/POLICY, or MODE where it takes none
    /// [default: all eight, handoff/least-loaded first].
    #[arg(long, value_name = "ARM,…", value_delimiter = ',')]
    arms: Vec<Arm>,

    /// The kind of load; several are measured one after the other.
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "per-connection,keepalive"
    )]
    scenario: Vec<Scenario>,

    /// Where requests go, as for serve: http://HOST:PORT or unix:/PATH; repeat for several
    /// [default: two demo upstreams].
    #[arg(long, value_name = "URL")]
    upstream: Vec<Endpoint>,

    /// What to ask your upstream for [default: /].
    #[arg(long, value_name = "PATH", requires = "upstream")]
    path: Option<RequestPath>,

    /// What takes your upstream long, for the scenario mixed.
    #[arg(long, value_name = "PATH", requires = "upstream")]
    slow_path: Option<RequestPath>,

    /// Worker processes [default: the cores that it may use, but at least 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_WORKERS as u16)))]
    workers: Option<u16>,

    /// Clients at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,

    /// Addresses of 127.0.0.0/8 that they come from, which remote-address tells apart
    /// [default: one for each client, up to 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    addresses: Option<u32>,

    /// How requests come: as soon as there is an answer to the last one, by a plan, or in each visit
    /// first the one and then the other.
    #[arg(long = "loop", value_name = "LOOP", value_enum, default_value_t = Loop::Both)]
    loops: Loop,

    /// Requests a second of the open loop, the same for all arms [default: half of what the slowest
    /// can do].
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,

    /// When the requests of the open loop come: as from many people who know nothing of each other, or
    /// evenly spaced.
    #[arg(long, value_name = "ARRIVALS", value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,

    /// How long all of it takes: seconds, or 90s, 5m, 1h.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = or_seconds)]
    duration: Duration,

    /// Measure so many rounds, however long that takes.
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,

    /// For how long an arm is measured at a time: short blocks make more rounds, and rounds are what
    /// certainty comes from.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = or_seconds)]
    block: Duration,

    /// Load before each block that does not count [default: a quarter of a block; in long-lived a whole
    /// one].
    #[arg(long, value_name = "TIME", value_parser = or_seconds)]
    warm_up: Option<Duration>,

    /// All chance in it comes from this number [default: a new one each time; it is printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Cores for master and workers, and for nothing else if the others are told theirs: 0 or 0,2-3.
    #[arg(long, value_name = "LIST")]
    proxy_cpus: Option<Cores>,

    /// Cores for the load and the demo upstreams.
    #[arg(long, value_name = "LIST")]
    load_cpus: Option<Cores>,

    /// Print a JSON array on standard output, one object for each scenario, and nothing else.
    #[arg(long)]
    json: bool,

    /// Write one row for each block to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Write a page with charts (index.html), the JSON and the rows of each scenario to this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    /// Make one arm slower on purpose, by work in the demo upstream for each of its requests: does the
    /// method find it?
    #[arg(
        long,
        value_name = "ARM=MICROSECONDS",
        hide = true,
        conflicts_with = "upstream"
    )]
    plant: Option<Plant>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Loop {
    Both,
    Closed,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Arrivals {
    Poisson,
    Constant,
}

/// What a request asks for: it stands in a request line, so it holds no blank.
#[derive(Debug, Clone)]
struct RequestPath(String);

impl FromStr for RequestPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let fine = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        fine.then(|| Self(text.to_owned()))
            .ok_or("a path begins with / and holds no blanks, nor anything that is not ASCII")
    }
}

/// A list of cores, as taskset(1) has it.
#[derive(Debug, Clone, PartialEq)]
struct Cores(Vec<usize>);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl FromStr for Cores {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WANTED: &str = "not a list of cores like 0 or 0,2-3";
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u16>().map_err(|_| WANTED);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(WANTED);
            }
            cores.extend((first..=last).map(usize::from));
        }
        Ok(Self(cores))
    }
}

/// A difference on purpose.
#[derive(Debug, Clone)]
struct Plant {
    arm: Arm,
    us: u32,
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (arm, us) = text.split_once('=').ok_or("want ARM=MICROSECONDS")?;
        Ok(Self {
            arm: arm
                .parse()
                .map_err(|error: UnknownName| error.to_string())?,
            us: us
                .parse()
                .ok()
                .filter(|us| *us <= 100_000)
                .ok_or("want at most 100000 microseconds")?,
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| (1.0..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("not a number of requests a second from 1 to {MAX_RATE}"))
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(super::drill::any_seed);
        let arms = self.all_arms()?;
        let plans = self.plans(&arms, seed)?;
        machine::has_room(self.clients)?;
        machine::has_cores("--proxy-cpus", self.proxy_cpus.as_ref())?;
        machine::has_cores("--load-cpus", self.load_cpus.as_ref())?;
        let output = Output::open(self.json, self.csv.as_deref(), self.report.as_deref())?;
        crate::notice(format_args!(
            "bench: seed {seed}, on {} cores",
            usable_cores()
        ));
        if self.workers() == 1 {
            crate::notice(format_args!(
                "bench: with one worker there is nobody to choose between; what differs is the way to it"
            ));
        }
        Task {
            cluster: OwnPlan {
                arms,
                workers: self.workers(),
                upstreams: self.upstream.iter().map(Endpoint::to_string).collect(),
                cores: self.proxy_cpus.map_or(Vec::new(), |cores| cores.0),
            },
            plans,
            seed,
            load_cores: self.load_cpus.map_or(Vec::new(), |cores| cores.0),
            output,
        }
        .run()
    }

    /// What is compared.
    fn all_arms(&self) -> Result<Vec<Arm>> {
        let arms = if self.arms.is_empty() {
            let base = Arm::new(Mode::Handoff, None).unwrap_or(Arm::ALL[0]);
            let others = Arm::ALL.into_iter().filter(|arm| *arm != base);
            std::iter::once(base).chain(others).collect()
        } else {
            self.arms.clone()
        };
        for (i, arm) in arms.iter().enumerate() {
            if arms[..i].contains(arm) {
                return Err(Error::usage(format!(
                    "--arms names {arm} twice: the first arm runs twice anyhow"
                )));
            }
        }
        Ok(arms)
    }

    /// What is done, scenario by scenario.
    fn plans(&self, arms: &[Arm], seed: u64) -> Result<Vec<Plan>> {
        if self.rate.is_some() && matches!(self.loops, Loop::Closed) {
            return Err(Error::usage(
                "--rate is for the open loop: leave it out, or --loop closed",
            ));
        }
        let program = std::env::current_exe()
            .map_err(|error| Error::runtime("cannot find our own binary", error))?;
        let number = bench::arms(arms).len();
        let mut plans: Vec<Plan> = Vec::new();
        for scenario in self.scenario.iter().copied() {
            if plans.iter().any(|plan| plan.scenario == scenario) {
                return Err(Error::usage(format!("--scenario names {scenario} twice")));
            }
            let (path, slow_path) = self.paths(scenario)?;
            let plan = Plan {
                program: program.clone(),
                scenario,
                host: self.host(),
                path,
                slow_path,
                planted: self.planted(scenario, arms)?,
                clients: self.clients,
                addresses: self.addresses.unwrap_or(self.clients.min(256)),
                loops: match self.loops {
                    Loop::Both => Loops::Both,
                    Loop::Closed => Loops::Closed,
                    Loop::Open => Loops::Open,
                },
                rate: self.rate,
                poisson: self.arrivals == Arrivals::Poisson,
                warm_up: self
                    .warm_up
                    .unwrap_or_else(|| Plan::usual_warm_up(scenario, self.block)),
                block: self.block,
                extent: match self.rounds {
                    Some(rounds) => Extent::Rounds(rounds),
                    None => Extent::Time(self.duration / self.scenario.len() as u32),
                },
                timeout: TIMEOUT,
                seed,
                load_cores: self.load_cpus.clone().map_or(Vec::new(), |cores| cores.0),
            };
            plan.check(number)?;
            plans.push(plan);
        }
        Ok(plans)
    }

    /// What requests ask for, and what slow ones do.
    fn paths(&self, scenario: Scenario) -> Result<(String, String)> {
        let given = |path: &Option<RequestPath>| path.clone().map(|path| path.0);
        let (path, slow) = (given(&self.path), given(&self.slow_path));
        if self.upstream.is_empty() {
            let path = match (scenario, &self.plant) {
                (Scenario::Bodies, _) => "/bytes?n=65536",
                // The same work for all arms, but for what is planted.
                (_, Some(_)) => "/spin?us=0",
                (_, None) => "/",
            };
            return Ok((path.into(), "/slow?ms=20".into()));
        }
        match scenario {
            Scenario::Mixed if slow.is_none() => Err(Error::usage(
                "scenario 'mixed' needs --slow-path: what does your upstream take long for?",
            )),
            Scenario::Bodies if path.is_none() => Err(Error::usage(
                "scenario 'bodies' needs --path: what has a large body at your upstream?",
            )),
            _ => Ok((path.unwrap_or_else(|| "/".into()), slow.unwrap_or_default())),
        }
    }

    fn planted(&self, scenario: Scenario, arms: &[Arm]) -> Result<Option<Planted>> {
        let Some(Plant { arm, us }) = &self.plant else {
            return Ok(None);
        };
        if scenario == Scenario::Bodies {
            return Err(Error::usage("--plant is not for scenario 'bodies'"));
        }
        let place = arms.iter().position(|other| other == arm);
        let place = place.ok_or_else(|| Error::usage(format!("--plant: {arm} is not compared")))?;
        Ok(Some(Planted {
            // The twin of the base comes second.
            arm: if place == 0 { 0 } else { place + 1 },
            path: format!("/spin?us={us}"),
        }))
    }

    /// The `Host` that the upstream is used to.
    fn host(&self) -> String {
        match self.upstream.first() {
            Some(endpoint) if matches!(endpoint.address(), Address::Tcp { .. }) => {
                endpoint.to_string()
            }
            _ => "localhost".into(),
        }
    }

    fn workers(&self) -> u16 {
        let cores = match &self.proxy_cpus {
            Some(cores) => cores.0.len() as u16,
            None => usable_cores(),
        };
        self.workers.unwrap_or(cores.clamp(2, MAX_WORKERS as u16))
    }
}

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_taskset_reads_them() {
        assert_eq!("0,2-3".parse(), Ok(Cores(vec![0, 2, 3])));
        for text in ["", "a", "3-2", "1,", "-1", "0-65536"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_fits_a_request_line() {
        assert!("/a?b=c".parse::<RequestPath>().is_ok());
        for text in ["", "a", "/a b", "/a\r\nx: y", "/ä"] {
            assert!(text.parse::<RequestPath>().is_err(), "{text}");
        }
    }
}
