//! The comparison: all arms in all scenarios, then the drills, then the folder with the results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use pointsman::bench::{self, Extent, Frame, Loops, Plan};
use pointsman::compare::{Circumstances, Ending, Source, report};
use pointsman::load::Scenario;

use crate::arm::{Arm, NAMES};
use crate::drills;
use crate::field::Field;
use crate::guard::Interrupt;
use crate::machine::{self, Machine, Shares};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::rundir::{self, About, Run};
use crate::site::Site;
use crate::upstream::{HOST, LARGE, SLOW, SMALL};

/// How long a slow answer takes, milliseconds; as in `pointsman bench`.
const SLOW_MS: u32 = 20;
/// If others had more than this share of the machine's time, the numbers are not clean.
const DISTURBED: f64 = 0.05;
/// How long an answer may take before the load gives it up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Compares Pointsman with its peers and with itself
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// The Pointsman to measure, which brings the load too
    #[arg(long, value_name = "PATH", default_value = "target/release/pointsman")]
    pointsman: PathBuf,
    /// The virtual environment with Envoy and Caddy in it
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers: PathBuf,
    #[arg(
        long,
        value_delimiter = ',',
        help = format!("What to compare, the base first: {NAMES}"),
        default_value = "nginx,nginx:tuned,haproxy,envoy,caddy,node:rr,node:shared,\
                         pointsman:handoff,pointsman:hybrid,\
                         pointsman:shared,pointsman:reuseport,relay,direct"
    )]
    arms: Vec<Arm>,
    #[arg(
        long,
        value_delimiter = ',',
        help = format!("The kinds of load: {}", Scenario::ALL.map(Scenario::name).join(", ")),
        default_value = "keepalive,per-connection,mixed,long-lived,bodies,bursts"
    )]
    scenario: Vec<Scenario>,
    /// Visits to each arm in each scenario
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Seconds of a measured block
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    block: Duration,
    /// Seconds of load before each block [default: a quarter of a block; in long-lived a whole one]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    warm_up: Option<Duration>,
    /// What each visit measures
    #[arg(long = "loop", value_enum, default_value = "both")]
    loops: Loop,
    /// Connections of the load
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Requests a second of open load [default: half of what the slowest arm can do]
    #[arg(long)]
    rate: Option<f64>,
    /// Workers (or threads) of each proxy, all on its core; drills always have two
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Repetitions of each drill; 0: none
    #[arg(long, default_value_t = 3)]
    drills: u32,
    /// Nothing but drills
    #[arg(long, conflicts_with = "scenario")]
    only_drills: bool,
    /// All chance comes from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The core of the proxies [default: the first that may be used]
    #[arg(long)]
    proxy_core: Option<usize>,
    /// The core of load and upstream [default: the second]
    #[arg(long)]
    load_core: Option<usize>,
    /// Pin nothing: on a machine with one core, to see that it works
    #[arg(long, conflicts_with_all = ["proxy_core", "load_core"])]
    unpinned: bool,
    /// Where the folder with the results is made
    #[arg(long, value_name = "DIR", default_value = "loadtest/runs")]
    out: PathBuf,
    /// The folder's name [default: the day and the machine's kind]
    #[arg(long)]
    name: Option<String>,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Loop {
    /// Closed for capacity and cost, then open for latency
    Both,
    /// Each client sends when it has its answer
    Closed,
    /// By a plan that waits for nobody
    Open,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.05..=600.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("from 0.05 to 600".to_owned())
}

/// Who runs where.
struct Pins {
    proxy: Option<Vec<usize>>,
    load: Option<Vec<usize>>,
}

/// What there is to compare, and what is not there.
struct Arms {
    there: Vec<Arm>,
    missing: BTreeMap<String, String>,
}

impl Peers {
    /// Measures, and writes the folder; what was measured by the time that something fails, or somebody
    /// ends it, is written too.
    pub(crate) fn run(&self) -> Result<()> {
        let interrupt = Interrupt::install()?;
        let pins = self.pins()?;
        let programs = Programs {
            pointsman: self.pointsman.clone(),
            peers: self.peers.clone(),
        };
        let arms = self.installed(&programs)?;
        for scenario in self.scenarios() {
            let plan = self.plan(*scenario, &pins);
            plan.check(arms.there.len() + 1)?;
        }
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let circumstances = Circumstances::here(format!("loadtest {command}"), self.seed);
        // Made now: a path that cannot be written should not be found out an hour later.
        let dir = rundir::make(&self.out, &self.name(&circumstances))?;
        let mut run = Run {
            about: self.about(&circumstances, &arms, &programs),
            reports: Vec::new(),
            drills: None,
        };
        if let Some(cores) = &pins.load {
            machine::stay_on(cores)?;
        }
        let measured = self.measure(
            &mut run,
            &arms.there,
            &programs,
            &pins,
            circumstances,
            &interrupt,
        );
        if run.reports.is_empty() && run.drills.is_none() {
            let _ = std::fs::remove_dir(&dir);
            return measured;
        }
        if let Err(error) = &measured {
            run.about
                .notes
                .push(format!("It did not end as planned: {error:#}."));
        }
        run.save(&dir)?;
        for made in &run.reports {
            println!("== {}\n\n{}", made.comparison.scenario, report::table(made));
        }
        println!("{}", crate::table::full(&run));
        println!("{}", dir.join("README.md").display());
        measured
    }

    fn measure(
        &self,
        run: &mut Run,
        arms: &[Arm],
        programs: &Programs,
        pins: &Pins,
        circumstances: Circumstances,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let dir = scratch()?;
        let site = Site {
            dir: dir.path(),
            sockets: dir.path(),
            programs,
            workers: self.workers,
            connections: self.clients,
            proxy_cores: pins.proxy.as_deref(),
            load_cores: pins.load.as_deref(),
            interrupt,
        };
        let subjects = drills::subjects(arms);
        let mut progress = Progress::new();
        let drilling = drills::time(subjects.len(), self.drills);
        if !self.scenarios().is_empty() {
            // Ended before the drills, which start their own.
            let mut field = Field::start(&site, arms)?;
            for (done, scenario) in self.scenarios().iter().enumerate() {
                let later = self.scenarios()[done + 1..].iter();
                let later: Duration = later
                    .map(|scenario| self.plan(*scenario, pins).time(arms.len() + 1))
                    .sum();
                let frame = Frame {
                    source: Source::Peers,
                    circumstances: circumstances.clone(),
                };
                let plan = self.plan(*scenario, pins);
                let tell = |at: &bench::Progress| {
                    let of = at
                        .rounds
                        .map_or_else(String::new, |all| format!(" of {all}"));
                    let what = format!("{}: round {}{of}: {}", scenario.name(), at.round, at.name);
                    progress.say(&what, at.left + later + drilling);
                };
                compare(&mut field, &plan, frame, interrupt, tell, run)?;
            }
        }
        if self.drills > 0 && !subjects.is_empty() {
            let tell = |what: &str, left| progress.say(what, left);
            drills::run(&site, &subjects, self.drills, &mut run.drills, tell)?;
        }
        progress.end();
        Ok(())
    }

    fn scenarios(&self) -> &[Scenario] {
        match self.only_drills {
            true => &[],
            false => &self.scenario,
        }
    }

    fn plan(&self, scenario: Scenario, pins: &Pins) -> Plan {
        let path = match scenario {
            Scenario::Bodies => LARGE,
            _ => SMALL,
        };
        Plan {
            program: self.pointsman.clone(),
            scenario,
            host: HOST.to_owned(),
            path: path.to_owned(),
            slow_path: format!("{SLOW}{SLOW_MS}"),
            planted: None,
            clients: self.clients,
            addresses: 1,
            loops: match self.loops {
                Loop::Both => Loops::Both,
                Loop::Closed => Loops::Closed,
                Loop::Open => Loops::Open,
            },
            rate: self.rate,
            poisson: true,
            warm_up: self
                .warm_up
                .unwrap_or_else(|| Plan::usual_warm_up(scenario, self.block)),
            block: self.block,
            extent: Extent::Rounds(self.rounds),
            timeout: TIMEOUT,
            seed: self.seed,
            load_cores: pins.load.clone().unwrap_or_default(),
        }
    }

    /// One core for the proxies, another for all else: what the load does is not the proxies' doing.
    fn pins(&self) -> Result<Pins> {
        if self.unpinned {
            return Ok(Pins {
                proxy: None,
                load: None,
            });
        }
        let cores = machine::cores()?;
        let proxy = self.proxy_core.or(cores.first().copied());
        let other = cores.iter().copied().find(|core| Some(*core) != proxy);
        match (proxy, self.load_core.or(other)) {
            (Some(proxy), Some(load)) if proxy != load => Ok(Pins {
                proxy: Some(vec![proxy]),
                load: Some(vec![load]),
            }),
            _ => bail!(
                "two cores are needed, or the load would take the proxy's time: --proxy-core and --load-core \
                 must differ, or --unpinned to see no more than that it works"
            ),
        }
    }

    /// Never silently: what is left out is said now, and in the results.
    fn installed(&self, programs: &Programs) -> Result<Arms> {
        let mut arms = Arms {
            there: Vec::new(),
            missing: BTreeMap::new(),
        };
        for arm in &self.arms {
            if arms.there.contains(arm) {
                bail!("{arm} is named twice (the first arm is measured twice as it is)");
            }
            match programs.find(*arm) {
                Ok(_) => arms.there.push(*arm),
                Err(error) => {
                    eprintln!("MISSING, and left out of all results: {arm}: {error:#}");
                    arms.missing.insert(arm.to_string(), format!("{error:#}"));
                }
            }
        }
        if arms.there.is_empty() {
            bail!("none of the arms can be run");
        }
        // The load is Pointsman's own, whatever is compared.
        if !self.pointsman.is_file() {
            bail!(
                "there is no {}, which brings the load: cargo build --release, or --pointsman PATH",
                self.pointsman.display()
            );
        }
        Ok(arms)
    }

    fn name(&self, circumstances: &Circumstances) -> String {
        self.name.clone().unwrap_or_else(|| {
            let machine = rundir::machine_name(&circumstances.processor, circumstances.cores);
            format!("{}-{machine}", machine::day(circumstances.began))
        })
    }

    fn placement(&self) -> String {
        let workers = match self.workers {
            1 => "one worker".to_owned(),
            many => format!("{many} workers"),
        };
        match self.unpinned {
            true => format!("{workers}, nothing pinned to a core"),
            false => format!("{workers} on one core, load and upstream on another"),
        }
    }

    fn about(&self, circumstances: &Circumstances, arms: &Arms, programs: &Programs) -> About {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let versions = arms.there.iter().filter_map(|arm| {
            let version = programs.version(*arm)?;
            Some((arm.to_string(), version))
        });
        let mut notes = machine::warnings();
        for note in &notes {
            eprintln!("note: {note}");
        }
        if self.unpinned {
            notes.push("Nothing was pinned to a core: these numbers compare nothing.".to_owned());
        }
        if cfg!(debug_assertions) {
            notes.push("Upstream and relay were not built for speed.".to_owned());
        }
        About {
            began: now.map_or(circumstances.began, |now| now.as_secs()),
            commit: machine::commit(),
            command: circumstances.command.clone(),
            processor: circumstances.processor.clone(),
            cores: circumstances.cores,
            kernel: circumstances.kernel.clone(),
            seed: self.seed,
            placement: self.placement(),
            versions: versions.collect(),
            missing: arms.missing.clone(),
            disturbances: Vec::new(),
            notes,
        }
    }
}

/// Runs one scenario to its end, or to the wish of a person. What was measured by then is in `run`.
fn compare(
    field: &mut Field,
    plan: &Plan,
    frame: Frame,
    interrupt: &Interrupt,
    tell: impl FnMut(&bench::Progress),
    run: &mut Run,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the runtime")?;
    let scenario = plan.scenario.name();
    let before = Machine::look()?;
    let mut made = runtime.block_on(bench::run(field, plan, frame, interrupt.wait(), tell));
    let Shares { stolen, others } = Machine::look()?.since(&before);
    made.circumstances.notes.push(format!(
        "Meanwhile the hypervisor gave {:.1} % of this machine's time to others, and other programs here took \
         {:.1} %.",
        stolen * 100.0,
        others * 100.0
    ));
    if stolen.max(others) > DISTURBED {
        run.about.disturbances.push(format!(
            "{scenario}: others had {:.0} % of the machine's time.",
            (stolen + others) * 100.0
        ));
    }
    let ending = made.ending.clone();
    if !made.is_empty() {
        run.reports.push(rundir::judged(made));
    }
    match ending {
        Ending::Complete => field.check_answers(),
        Ending::Interrupted => bail!("interrupted"),
        other => bail!("{scenario}: {}", crate::table::ending(&other)),
    }
}

/// A folder for configurations and logs, which goes when this does.
fn scratch() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix("loadtest-")
        // Started by root, workers of nginx give up root's rights and must still get in.
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("cannot create a scratch folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sensible_times_are_taken() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "1e9", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
