//! Our bus and NATS, on loopback, in the same run: what a delivery costs, how long an answer takes, what
//! it costs to be there and silent, and what HTTP beside a flood of messages suffers.
//!
//! Each arm is a cluster of processes of its own, doing the same by the same code (`actor`). All of them run
//! all the time; blocks go to one after the other, round by round, and the first arm is there twice.

mod actor;
mod http;
mod nats;
mod ours;
mod script;
mod stage;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use pointsman::compare::{self, Arm, Block, Circumstances, Comparison, Ending, Source};

use self::http::Ground;
pub(crate) use self::nats::NatsActor;
pub(crate) use self::ours::BusCluster;
use self::script::Offer;
use self::stage::{Kind, Measured, Stage};
use self::verdict::{Idle, Record};
use crate::guard::Interrupt;
use crate::machine::{self, Machine};
use crate::ports::Ports;
use crate::progress::Progress;
use crate::rundir;

/// Compares our bus with NATS and with itself
#[derive(Debug, Args)]
pub(crate) struct Bus {
    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "idle,broadcast,paced,flat-out,requests,http"
    )]
    scenario: Vec<Scenario>,
    /// Visits to each arm in each scenario
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Messages of a block, each to three subscribers
    #[arg(long, default_value_t = 60_000)]
    messages: u64,
    /// Bytes of a payload
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(16..=65_000))]
    size: u64,
    /// The most messages on their way in 'broadcast', so that nobody loses any
    #[arg(long, default_value_t = 4096)]
    window: u64,
    /// Messages a second in 'paced'
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// Requests of a block
    #[arg(long, default_value_t = 3000)]
    requests: u64,
    /// The program that brings the HTTP load
    #[arg(long, value_name = "PATH", default_value = "target/release/pointsman")]
    pointsman: PathBuf,
    /// Clients of the HTTP load
    #[arg(long, default_value_t = 32)]
    clients: u32,
    /// Seconds of a block of HTTP load
    #[arg(long, default_value_t = 1.0)]
    block: f64,
    /// Seconds of silence
    #[arg(long, default_value_t = 5)]
    idle: u64,
    /// All chance comes from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the folder with the results is made
    #[arg(long, value_name = "DIR", default_value = "loadtest/runs")]
    out: PathBuf,
    /// The folder's name [default: the day, the machine's kind and 'bus']
    #[arg(long)]
    name: Option<String>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// What is used while nobody says anything
    Idle,
    /// One publisher, three subscribers, as fast as it goes without a loss
    Broadcast,
    /// The same at a moderate rate
    Paced,
    /// The same, as fast as the publisher can, whatever is lost
    FlatOut,
    /// A question and its answer, one after the other
    Requests,
    /// HTTP of a cluster while its bus is flooded
    Http,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Broadcast => "broadcast",
            Self::Paced => "paced",
            Self::FlatOut => "flat-out",
            Self::Requests => "requests",
            Self::Http => "http",
        }
    }
}

/// The arms: the first is the base, the second is its twin.
const ARMS: [(&str, Kind); 3] = [
    ("bus", Kind::Ours),
    ("bus again", Kind::Ours),
    ("nats", Kind::Nats),
];

impl Bus {
    /// Measures, says, and leaves a folder.
    pub(crate) fn run(&self) -> Result<()> {
        let interrupt = Interrupt::install()?;
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let circumstances = Circumstances::here(format!("loadtest {command}"), self.seed);
        let dir = rundir::make(&self.out, &self.name(&circumstances))?;
        let mut record = Record::new(machine::commit(), circumstances);
        for note in machine::warnings() {
            eprintln!("note: {note}");
            record.notes.push(note);
        }
        if cfg!(debug_assertions) {
            record
                .notes
                .push("This was not built for speed.".to_owned());
        }
        let measured = self.measure(&mut record, &interrupt);
        if let Err(error) = &measured {
            record
                .notes
                .push(format!("It did not end as planned: {error:#}."));
        }
        if record.is_empty() {
            let _ = std::fs::remove_dir(&dir);
            return measured;
        }
        record.save(&dir)?;
        println!("{}", record.text());
        println!("{}", dir.join("README.md").display());
        measured
    }

    fn name(&self, circumstances: &Circumstances) -> String {
        self.name.clone().unwrap_or_else(|| {
            let machine = rundir::machine_name(&circumstances.processor, circumstances.cores);
            format!("{}-{machine}-bus", machine::day(circumstances.began))
        })
    }

    fn measure(&self, record: &mut Record, interrupt: &Interrupt) -> Result<()> {
        let scratch = tempfile::Builder::new()
            .prefix("loadtest-")
            .tempdir()
            .context("cannot create a scratch folder")?;
        let mut ports = Ports::new();
        let mut progress = Progress::new();
        let (beside, alone): (Vec<_>, Vec<_>) = self
            .scenario
            .iter()
            .partition(|scenario| **scenario == Scenario::Http);
        if !alone.is_empty() {
            let mut stages = Vec::new();
            for (name, kind) in ARMS {
                let dir = scratch.path().join(name.replace(' ', "-"));
                stages.push(Stage::start(kind, name, &dir, &mut ports, None, interrupt)?);
            }
            // Whatever is done for the first time is done, and nothing of it counts.
            for stage in &mut stages {
                stage.broadcast(
                    self.messages / 10 + 1,
                    self.size(),
                    Offer::Window(self.window),
                )?;
                stage.ask(self.requests / 10 + 1, self.size())?;
            }
            for scenario in alone {
                match scenario {
                    Scenario::Idle => self.be_idle(&stages, record, interrupt)?,
                    _ => {
                        let visit = |arm: usize, _| self.block(scenario, &mut stages[arm]);
                        let arms = arms(&ARMS.map(|(name, _)| name));
                        self.compare(scenario, arms, visit, record, interrupt, &mut progress)?;
                    }
                }
            }
        }
        if !beside.is_empty() {
            let mut ground =
                Ground::start(self, &scratch.path().join("http"), &mut ports, interrupt)?;
            let arms = arms(&http::ARMS);
            let visit = |arm, round| ground.block(self, arm, round);
            self.compare(
                Scenario::Http,
                arms,
                visit,
                record,
                interrupt,
                &mut progress,
            )?;
        }
        progress.end();
        Ok(())
    }

    fn be_idle(&self, stages: &[Stage], record: &mut Record, interrupt: &Interrupt) -> Result<()> {
        for stage in stages {
            // What the last message has set in motion comes to rest.
            interrupt.sleep(Duration::from_millis(500))?;
            let time = Duration::from_secs(self.idle);
            record.idle.push(Idle {
                name: stage.name.clone(),
                seconds: time.as_secs_f64(),
                used: stage.idle(time, interrupt)?.used,
            });
        }
        Ok(())
    }

    fn compare(
        &self,
        scenario: Scenario,
        arms: Vec<Arm>,
        mut visit: impl FnMut(usize, u32) -> Result<Measured>,
        record: &mut Record,
        interrupt: &Interrupt,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut comparison = Comparison {
            source: Source::Peers,
            scenario: scenario.name().to_owned(),
            load: self.words(scenario),
            circumstances: record.circumstances.clone(),
            arms,
            blocks: Vec::new(),
            rounds: self.rounds,
            ending: Ending::Running,
        };
        let begun = Instant::now();
        let before = Machine::look()?;
        let mut measured = || {
            for round in 1..=self.rounds {
                for (place, arm) in compare::order(round, comparison.arms.len())
                    .into_iter()
                    .enumerate()
                {
                    interrupt.check()?;
                    let left = begun.elapsed() / round * (self.rounds - round + 1);
                    let what = format!("{}: round {round} of {}", scenario.name(), self.rounds);
                    progress.say(&what, left);
                    let began = begun.elapsed().as_secs_f64();
                    let measured = visit(arm, round)?;
                    if measured.disordered > 0 {
                        let name = &comparison.arms[arm].name;
                        bail!("{name}: {} messages out of order", measured.disordered);
                    }
                    let at = (arm, round, place as u32 + 1, began);
                    comparison.blocks.push(self.row(scenario, at, measured));
                }
            }
            Ok(())
        };
        let ended = measured();
        comparison.ending = match &ended {
            Ok(()) => Ending::Complete,
            Err(error) => Ending::Failed {
                why: format!("{error:#}"),
            },
        };
        record.disturbance(scenario.name(), Machine::look()?.since(&before));
        if !comparison.is_empty() {
            record.reports.push(rundir::judged(comparison));
        }
        ended
    }

    fn block(&self, scenario: Scenario, stage: &mut Stage) -> Result<Measured> {
        match self.offer(scenario) {
            None => stage.ask(self.requests, self.size()),
            Some(Offer::Rate(rate)) => {
                // A second of it: the others take as long as they take.
                stage.broadcast(rate as u64, self.size(), Offer::Rate(rate))
            }
            Some(offer) => stage.broadcast(self.messages, self.size(), offer),
        }
        .with_context(|| stage.name.clone())
    }

    fn row(&self, scenario: Scenario, at: (usize, u32, u32, f64), measured: Measured) -> Block {
        let (arm, round, position, began) = at;
        Block {
            arm,
            round,
            position,
            drive: self
                .offer(scenario)
                .map_or(compare::Drive::Closed, Offer::drive),
            began,
            seconds: measured.seconds,
            requests: measured.done,
            errors: measured.lost,
            connections: 0,
            used: measured.delta.used,
            lost_threads: measured.delta.lost_threads,
            latency: measured.latency,
            handoff: Default::default(),
            open: Vec::new(),
            own_share: 1.0,
        }
    }

    fn offer(&self, scenario: Scenario) -> Option<Offer> {
        match scenario {
            Scenario::Broadcast => Some(Offer::Window(self.window)),
            Scenario::Paced => Some(Offer::Rate(self.rate)),
            Scenario::FlatOut => Some(Offer::Flat),
            Scenario::Idle | Scenario::Requests | Scenario::Http => None,
        }
    }

    fn size(&self) -> usize {
        self.size as usize
    }

    fn words(&self, scenario: Scenario) -> String {
        let many = format!(
            "one publisher, three subscribers in processes of their own, payloads of {} bytes",
            self.size
        );
        match scenario {
            Scenario::Broadcast => format!(
                "{many}, {} messages a block, at most {} ahead of the slowest subscriber",
                self.messages, self.window
            ),
            Scenario::Paced => format!("{many}, {} messages a second", self.rate),
            Scenario::FlatOut => format!(
                "{many}, {} messages a block, as fast as the publisher can",
                self.messages
            ),
            Scenario::Requests => format!(
                "one process asks another {} times a block, {} bytes each way, one after the other",
                self.requests, self.size
            ),
            Scenario::Http => format!(
                "{} clients that keep their connections, small answers, while a worker that serves nobody publishes \
                 to another one as fast as it can, or nobody does, or three threads keep the machine busy with nothing; \
                 CPU time is that of the two workers that serve, and of the dispatcher",
                self.clients
            ),
            Scenario::Idle => "nobody says anything".to_owned(),
        }
    }
}

/// The arms of these names; the second is the first once more.
fn arms(names: &[&str]) -> Vec<Arm> {
    let arm = |name: &&str| Arm {
        name: (*name).to_owned(),
        twin_of: None,
        configuration: None,
    };
    let mut arms: Vec<Arm> = names.iter().map(arm).collect();
    arms[1].twin_of = Some(0);
    arms
}
