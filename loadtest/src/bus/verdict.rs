//! What is said of it: a line for each measure, the floors, and the folder.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use pointsman::compare::{ArmSummary, Circumstances, Contrast, Ending, Report, report};
use pointsman::processes::Usage;
use serde::Serialize;

use super::Scenario;
use crate::machine::{self, Shares};
use crate::{rundir, table};

/// Deliveries for a second of CPU time are to be at least so many times those of NATS.
const CHEAPER: f64 = 2.0;
/// A request beside a flood is to cost at most so many times the CPU time of one without.
const UNHARMED: f64 = 1.05;
/// If others had more than this share of the machine's time, the numbers are not clean.
const DISTURBED: f64 = 0.05;

/// All that is known in the end.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) commit: String,
    pub(crate) circumstances: Circumstances,
    pub(crate) notes: Vec<String>,
    pub(crate) idle: Vec<Idle>,
    #[serde(skip)]
    pub(crate) reports: Vec<Report>,
}

/// What an arm used while nobody said anything.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Idle {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) used: Usage,
}

impl Record {
    pub(crate) fn new(commit: String, circumstances: Circumstances) -> Self {
        Self {
            commit,
            circumstances,
            notes: Vec::new(),
            idle: Vec::new(),
            reports: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.reports.is_empty()
    }

    /// Notes who else was there.
    pub(crate) fn disturbance(&mut self, scenario: &str, shares: Shares) {
        let Shares { stolen, others } = shares;
        let clean = match stolen.max(others) > DISTURBED {
            true => ": **these numbers are not clean**",
            false => "",
        };
        self.notes.push(format!(
            "{scenario}: the hypervisor gave {:.1} % of this machine's time to others, and other programs here took \
             {:.1} %{clean}.",
            stolen * 100.0,
            others * 100.0
        ));
    }

    /// Writes everything into `dir`.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        rundir::write_json(dir, "run.json", self)?;
        for made in &self.reports {
            let scenario = &made.comparison.scenario;
            rundir::write_json(dir, &format!("comparison-{scenario}.json"), made)?;
            let rows = report::csv(&made.comparison);
            rundir::write(dir, &format!("blocks-{scenario}.csv"), &rows)?;
        }
        rundir::write(dir, "README.md", &self.readme())
    }

    fn readme(&self) -> String {
        let here = &self.circumstances;
        let mut text = format!(
            "# The bus and NATS, {}, {}\n\n- Commit: {}\n- Command: `{}`\n- Machine: {}, {} cores, {}\n",
            machine::day(here.began),
            here.processor,
            self.commit,
            here.command,
            here.processor,
            here.cores,
            here.kernel,
        );
        for note in &self.notes {
            _ = writeln!(text, "- {note}");
        }
        text.push_str(
            "\n`blocks-*.csv`: a row for each block; a request is a delivery, or an answered request, and an error is \
             one that was lost. CPU time is that of all processes of an arm: publisher, subscribers, and the master or \
             the server between them. `comparison-*.json`: the same, and what it says. How arms are laid beside each \
             other: [METHODOLOGY.md](../../../METHODOLOGY.md).\n\n",
        );
        text + &self.text()
    }

    /// The tables.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.idle.is_empty() {
            text.push_str("| idle | seconds | context switches of all processes | CPU time, µs |\n|---|--:|--:|--:|\n");
            for Idle {
                name,
                seconds,
                used,
            } in &self.idle
            {
                _ = writeln!(
                    text,
                    "| {name} | {seconds:.0} | {} | {} |",
                    used.wakeups + used.preempted,
                    used.cpu_ns / 1000
                );
            }
            text.push('\n');
        }
        for report in &self.reports {
            text += &table_of(report);
        }
        text.push_str("| floor | measured | |\n|---|---|---|\n");
        for (floor, measured, met) in self.floors() {
            let verdict = match met {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "**cannot be told**",
            };
            _ = writeln!(text, "| {floor} | {measured} | {verdict} |");
        }
        text
    }

    /// What was asked for, what was found, and whether that is enough: the whole interval has to lie on one
    /// side of the floor, or there is no telling.
    fn floors(&self) -> Vec<(String, String, Option<bool>)> {
        let mut floors = Vec::new();
        let last = |scenario: Scenario| {
            let named = |report: &&Report| report.comparison.scenario == scenario.name();
            self.reports.iter().find(named)?.summary.arms.last()
        };
        for scenario in [Scenario::Broadcast, Scenario::Paced, Scenario::FlatOut] {
            if let Some(cpu) = last(scenario).and_then(|nats| nats.cpu) {
                floors.push((
                    format!(
                        "{}: at least {CHEAPER} times the deliveries of NATS for the same CPU time",
                        scenario.name()
                    ),
                    times(&cpu),
                    side(&cpu, CHEAPER),
                ));
            }
        }
        if let Some(p50) = last(Scenario::Requests).and_then(|nats| nats.latency_p50) {
            floors.push((
                "requests: a median below that of NATS".to_owned(),
                format!("NATS takes {}", times(&p50)),
                side(&p50, 1.0),
            ));
        }
        if let Some(idle) = self.idle.first() {
            let switches = idle.used.wakeups + idle.used.preempted;
            floors.push((
                "idle: no context switch in any process".to_owned(),
                format!("{switches} in {:.0} s", idle.seconds),
                Some(switches == 0),
            ));
        }
        if let Some(flooded) = last(Scenario::Http) {
            if let Some(cpu) = flooded.cpu {
                floors.push((
                    format!(
                        "http: a request beside a flood costs at most {UNHARMED} times the CPU time"
                    ),
                    times(&cpu),
                    side(&cpu, UNHARMED).map(|beyond| !beyond),
                ));
            }
            floors.push((
                "http: no errors beside a flood".to_owned(),
                format!("{} in {} requests", flooded.errors, flooded.requests),
                Some(flooded.errors == 0),
            ));
        }
        floors
    }
}

/// Is it above the bound, or below?
fn side(contrast: &Contrast, bound: f64) -> Option<bool> {
    match (contrast.low >= bound, contrast.high < bound) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn times(contrast: &Contrast) -> String {
    format!(
        "{:.2} × [{:.2}–{:.2}]",
        contrast.ratio, contrast.low, contrast.high
    )
}

/// One scenario.
fn table_of(report: &Report) -> String {
    let comparison = &report.comparison;
    let mut text = format!("**{}**: {}", comparison.scenario, comparison.load);
    if comparison.ending != Ending::Complete {
        _ = write!(
            text,
            " (**not complete**: {})",
            table::ending(&comparison.ending)
        );
    }
    text.push_str(
        ".\n\n| | a second | CPU time for each, µs | for a CPU-second | against the first: CPU time | lost | p50, µs | p99, µs | \
         against the first: p50 |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for arm in &report.summary.arms {
        _ = writeln!(text, "{}", row(arm));
    }
    text.push('\n');
    text
}

fn row(arm: &ArmSummary) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let contrast =
        |contrast: &Option<Contrast>| contrast.as_ref().map_or_else(|| "–".to_owned(), times);
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        arm.name,
        number(arm.requests_per_second, 0),
        number(arm.cpu_us_per_request, 2),
        number(arm.cpu_us_per_request.map(|us| 1e6 / us), 0),
        contrast(&arm.cpu),
        arm.errors,
        number(arm.p50.map(|s| s * 1e6), 0),
        number(arm.p99.map(|s| s * 1e6), 0),
        contrast(&arm.latency_p50),
    )
}
