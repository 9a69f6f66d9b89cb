//! Carrying it out: upstreams, a cluster, one scenario after the other, and what there is in the end.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};

use super::{Cores, machine, output::Output, progress::Bar};
use crate::{
    bench::{self, Frame, Own, OwnPlan, Plan},
    cli::demo::DemoUpstreams,
    compare::{Circumstances, Comparison, Ending, Source},
    error::{Error, Result},
    sys::schedule,
};

/// All that is to be done.
pub(super) struct Task {
    /// What is measured; with no upstreams: demo upstreams.
    pub(super) cluster: OwnPlan,
    /// The scenarios.
    pub(super) plans: Vec<Plan>,
    /// All chance in it comes from this.
    pub(super) seed: u64,
    /// The cores of everything but the cluster; none: all that we may use.
    pub(super) load_cores: Vec<usize>,
    /// Where results go.
    pub(super) output: Output,
}

/// What asks us to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// What there is to show.
#[derive(Default)]
struct Results {
    comparisons: Vec<Comparison>,
    /// Why it ended early, if something broke.
    failure: Option<String>,
    /// The last lines of the cluster, if something broke.
    log: Vec<String>,
}

impl Task {
    /// Does it. Must be called on the main thread.
    pub(super) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::runtime("cannot start", error))?;
        runtime.block_on(async {
            let mut signals = Signals::new()?;
            let busy = tokio::select! {
                busy = machine::others() => busy,
                () = signals.next() => return Err(interrupted()),
            };
            let Self { cluster, plans, seed, load_cores, output } = self;
            let (results, ends) =
                measure(cluster, &plans, &load_cores, Notes { seed, busy }, &mut signals).await?;
            let folder = ends.0.as_ref().map(|own| own.folder().to_owned());
            // With the cluster gone the machine is free to think about what was measured.
            let shown = spawn_blocking(move || {
                drop(ends);
                results.show(output)
            });
            tokio::select! {
                shown = shown => shown.unwrap_or_else(|error| Err(Error::failed(format!("{error}")))),
                // Whatever we started ends with us.
                () = signals.next() => {
                    let _ = folder.map(std::fs::remove_dir_all);
                    std::process::exit(i32::from(interrupted().exit_code()))
                }
            }
        })
    }
}

/// What circumstances are made of.
struct Notes {
    seed: u64,
    /// Cores that others kept busy before we began.
    busy: Option<f64>,
}

/// What ends when it is dropped.
type Ends = (Option<Own>, Option<DemoUpstreams>);

async fn measure(
    mut cluster: OwnPlan,
    plans: &[Plan],
    load_cores: &[usize],
    notes: Notes,
    signals: &mut Signals,
) -> Result<(Results, Ends)> {
    // Before we may use fewer cores than there are.
    let circumstances = circumstances(&cluster, load_cores, &notes);
    if !load_cores.is_empty() {
        schedule::run_on(load_cores)
            .map_err(|error| Error::runtime("cannot run on the cores of --load-cpus", error))?;
    }
    let mut demo = None;
    if cluster.upstreams.is_empty() {
        let upstreams = DemoUpstreams::start()?;
        let urls = upstreams.endpoints().iter().map(ToString::to_string);
        cluster.upstreams = urls.collect();
        demo = Some(upstreams);
    }
    let mut own = tokio::select! {
        own = Own::start(&cluster) => own?,
        () = signals.next() => return Err(interrupted()),
    };
    let mut bar = Bar::new(plans.len());
    let mut results = Results::default();
    for (i, plan) in plans.iter().enumerate() {
        let frame = Frame {
            source: Source::Bench,
            circumstances: circumstances.clone(),
        };
        let arms = cluster.arms.len() + 1;
        let later: Duration = plans[i + 1..].iter().map(|plan| plan.time(arms)).sum();
        let tell = |progress: &bench::Progress| bar.show(i, plan.scenario.name(), progress, later);
        let comparison = bench::run(&mut own, plan, frame, signals.next(), tell).await;
        if let Ending::Failed { why } = &comparison.ending {
            results.failure = Some(why.clone());
            results.log = own.log();
        }
        let ended = comparison.ending != Ending::Complete;
        if !comparison.is_empty() {
            results.comparisons.push(comparison);
        }
        if ended {
            break;
        }
    }
    bar.clear();
    Ok((results, (Some(own), demo)))
}

/// Where and how.
fn circumstances(cluster: &OwnPlan, load_cores: &[usize], notes: &Notes) -> Circumstances {
    let command: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    let command = format!("pointsman {}", command.join(" "));
    let mut here = Circumstances::here(command, notes.seed);
    let workers = cluster.workers;
    here.notes.push(match &cluster.upstreams[..] {
        [] => format!(
            "{workers} workers in front of two demo upstreams; clients, upstreams and proxy share this machine."
        ),
        own => format!(
            "{workers} workers in front of {}; clients and proxy share this machine.",
            own.join(", ")
        ),
    });
    let list = |cores: &[usize]| match cores {
        [] => "any core".into(),
        cores => format!("core {}", Cores(cores.to_vec())),
    };
    if !(cluster.cores.is_empty() && load_cores.is_empty()) {
        here.notes.push(format!(
            "Master and workers ran on {}, everything else on {}.",
            list(&cluster.cores),
            list(load_cores)
        ));
    }
    if let Some(busy) = notes.busy.filter(|busy| *busy >= 0.1) {
        here.notes.push(format!(
            "Before it began, other programs kept {busy:.1} cores busy."
        ));
    }
    here
}

/// As it could stand in a shell.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

fn interrupted() -> Error {
    Error::interrupted("bench: interrupted before anything was measured")
}

impl Results {
    /// Judges and writes what there is.
    fn show(self, output: Output) -> Result<()> {
        let reports: Vec<_> = self
            .comparisons
            .into_iter()
            .map(Comparison::report)
            .collect();
        if !reports.is_empty() {
            output.write(&reports)?;
        }
        for line in &self.log {
            crate::notice(format_args!("cluster: {line}"));
        }
        match self.failure {
            Some(why) => Err(Error::failed(format!("bench: {why}"))),
            None if reports.is_empty() => Err(interrupted()),
            None => Ok(()),
        }
    }
}

impl Signals {
    fn new() -> Result<Self> {
        let failed = |error| Error::runtime("cannot listen for signals", error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for the next.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        for (argument, expected) in [
            ("--arms", "--arms"),
            ("/health?a=1", "'/health?a=1'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(argument.into()), expected);
        }
    }
}
