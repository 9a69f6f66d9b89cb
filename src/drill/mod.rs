//! Drills: real clients, faults on purpose, and a ledger of what the clients saw.
//!
//! A drill sets up a cluster of its own (the same binary, in a process of its own, before an
//! upstream of the drill's), or takes one that runs already. It goes leg by leg, one for each mode.
//! In each leg clients run while one fault after the other is injected; afterwards the clients go
//! and the cluster must be as it was. Then [`ledger::judge`] says which promises were kept.

mod faults;
mod ledger;
mod origin;
mod table;
mod traffic;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use self::{
    faults::{Files, Site, Step},
    ledger::{FAST_ENOUGH, Ledger, Leg, Promise, Row},
    origin::Origin,
    traffic::{Load, Tallies, Traffic},
};
use crate::{
    dispatch::{
        mode::{Arm, Mode},
        policy::Policy,
    },
    error::{Error, Result},
    machine,
    random::Random,
    rig::{DEADLINE, Folder, Footprint, Metrics, Subject},
};

/// The longest time from the clients' being busy to a fault, so that faults come at any moment.
const PHASE: Duration = Duration::from_millis(20);
/// Right answers between two faults, at least.
const BETWEEN: u64 = 20;
/// How long the cluster may take to be as it was once the clients have gone.
const QUIET: Duration = Duration::from_secs(10);

/// What is done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Workers are killed.
    Kill,
    /// Workers stand still for a while.
    Stop,
    /// Nothing, beside a busy machine.
    Healthy,
    /// All workers are replaced.
    Restart,
    /// The configuration is read again, good ones and broken ones.
    Reload,
    /// The binary is replaced, by good ones and bad ones.
    Upgrade,
    /// Mode and policy change.
    Switch,
}

impl Kind {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Healthy => "healthy",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::Switch => "switch",
        }
    }
}

/// In which modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modes {
    /// In each of them, one after the other.
    All,
    /// In this one.
    One(Mode),
    /// In whichever is in force.
    AsItIs,
}

/// A cluster that runs already.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Its control socket.
    pub(crate) control: PathBuf,
    /// Where clients connect.
    pub(crate) target: SocketAddr,
}

/// A drill about to begin.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What is done.
    pub(crate) kind: Kind,
    /// How often.
    pub(crate) count: usize,
    /// All choices follow from it.
    pub(crate) seed: u64,
    /// In which modes.
    pub(crate) modes: Modes,
    /// Clients that keep their connections; half as many open one for each request.
    pub(crate) clients: usize,
    /// Workers of the drill's own cluster.
    pub(crate) workers: u16,
    /// For how long nothing is done, in [`Kind::Healthy`].
    pub(crate) healthy: Duration,
    /// Whom it is done to; `None`: a cluster of the drill's own.
    pub(crate) running: Option<Running>,
}

/// What came of a drill.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    drill: Kind,
    version: &'static str,
    machine: String,
    seed: u64,
    count: usize,
    keep_alive_clients: usize,
    per_connection_clients: usize,
    /// A cluster of the drill's own?
    own_cluster: bool,
    seconds: f64,
    interrupted: bool,
    /// Were all promises kept?
    held: bool,
    /// What clients saw, all legs together.
    ledger: Ledger,
    promises: Vec<Promise>,
    legs: Vec<Leg>,
    /// The last lines of the cluster's own log, if something went wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<String>,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        table::render(self)
    }

    /// For programs; `compact`: for keeping.
    pub(crate) fn json(&self, compact: bool) -> String {
        let json = match compact {
            true => serde_json::to_string(self),
            false => serde_json::to_string_pretty(self),
        };
        json.expect(
            "plain data with names for keys: there is nothing in it that JSON could not say",
        )
    }

    /// Why it ended badly, in one line; `None`: it did not.
    pub(crate) fn verdict(&self) -> Option<String> {
        if self.interrupted {
            let done: usize = self.legs.iter().map(|leg| leg.faults.len()).sum();
            return Some(format!("interrupted after {done} faults"));
        }
        let mut promises = self.promises.iter();
        let slow = promises.any(|p| !p.held && p.promise == FAST_ENOUGH);
        let broken: Vec<String> = self
            .promises
            .iter()
            .filter(|promise| !promise.held)
            .map(|promise| format!("'{}'", promise.promise))
            .collect();
        let broken = (!broken.is_empty()).then(|| format!("broken: {}", broken.join(", ")))?;
        Some(if slow {
            format!("the machine was too slow to tell, try again when it is less busy; {broken}")
        } else {
            broken
        })
    }

    /// The last lines of the cluster's log, if something went wrong.
    pub(crate) fn log(&self) -> &[String] {
        &self.log
    }
}

/// One leg before it is run.
#[derive(Debug, PartialEq)]
struct Stage {
    /// The arm that it begins in; `None`: whichever is in force.
    arm: Option<Arm>,
    steps: Vec<Step>,
}

/// Everything that is to be done, leg by leg.
fn stages(plan: &Plan, random: &mut Random) -> Vec<Stage> {
    // Least-loaded soon shuns a worker that stands still, whether anybody has noticed that or not, and
    // then nothing would be found with it that it has not claimed.
    let policy = match plan.kind {
        Kind::Stop | Kind::Kill => |mode: Mode| mode.takes_policy().then_some(Policy::RoundRobin),
        _ => |_| None,
    };
    let usual = |mode: Mode| Arm::new(mode, policy(mode)).ok();
    let arms: Vec<Option<Arm>> = match plan.modes {
        Modes::All => Mode::ALL.map(usual).into(),
        Modes::One(mode) => vec![usual(mode)],
        Modes::AsItIs => vec![None],
    };
    if plan.kind == Kind::Switch {
        return vec![Stage {
            arm: arms[0],
            steps: switches(plan, random),
        }];
    }
    let share = |n: usize, i: usize| n / arms.len() + usize::from(i < n % arms.len());
    let (mut breaks, mut bads) = (0, 0);
    let mut stage = |i: usize, arm: Option<Arm>| {
        let mine = share(plan.count, i);
        let mut steps = Vec::new();
        match plan.kind {
            Kind::Kill => steps.resize(mine, Step::Kill),
            Kind::Stop => steps.resize(mine, Step::Stop),
            Kind::Restart => steps.resize(mine, Step::Restart),
            Kind::Healthy => steps.push(Step::Healthy(plan.healthy / arms.len() as u32)),
            Kind::Reload => {
                for _ in 0..mine {
                    steps.push(Step::Reload);
                    if plan.running.is_none() {
                        steps.push(Step::BrokenReload(breaks % faults::BROKEN_RELOADS));
                        breaks += 1;
                    }
                }
            }
            Kind::Upgrade => {
                for n in 0..mine {
                    steps.push(Step::Upgrade);
                    // One bad one for every two good ones.
                    if n < share(plan.count / 2, i) {
                        steps.push(Step::BadUpgrade(bads % faults::BAD_UPGRADES));
                        bads += 1;
                    }
                }
            }
            Kind::Switch => {}
        }
        Stage { arm, steps }
    };
    let stages = arms.iter().enumerate().map(|(i, arm)| stage(i, *arm));
    stages.filter(|stage| !stage.steps.is_empty()).collect()
}

/// Through all arms again and again, each time in another order.
fn switches(plan: &Plan, random: &mut Random) -> Vec<Step> {
    let mut arms = Arm::ALL.to_vec();
    if let Modes::One(mode) = plan.modes {
        arms.retain(|arm| arm.mode() == mode);
    }
    let mut steps = Vec::new();
    while steps.len() < plan.count {
        random.shuffle(&mut arms);
        steps.extend(arms.iter().map(|arm| Step::Switch(*arm)));
    }
    steps.truncate(plan.count);
    steps
}

/// A leg while it runs.
struct Course {
    leg: Leg,
    tallies: Tallies,
    /// Requests that the upstream had served twice before.
    twice_before: u64,
}

/// All that is known, whenever the drill is interrupted.
#[derive(Default)]
struct Evidence {
    courses: Vec<Course>,
    log: Vec<String>,
}

/// Runs the drill. Must be called on the main thread.
///
/// # Errors
/// It could not even begin. A promise that was broken is in the report.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::runtime("cannot start", error))?;
    let clock = Instant::now();
    // The yardstick needs one whoever's cluster it is.
    let upstream =
        Origin::start().map_err(|error| Error::runtime("cannot start an upstream", error))?;
    let origin = plan.running.is_none().then_some(&upstream);
    let mut evidence = Evidence::default();
    let interrupted = runtime.block_on(async {
        let failed = |error| Error::runtime("cannot listen for signals", error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            done = drill(plan, origin, upstream.address, clock, &mut evidence) => done.map(|()| false),
            _ = interrupt.recv() => Ok(true),
            _ = terminate.recv() => Ok(true),
        }
    })?;
    Ok(report(plan, clock, origin, evidence, interrupted))
}

fn report(
    plan: &Plan,
    clock: Instant,
    origin: Option<&Origin>,
    evidence: Evidence,
    interrupted: bool,
) -> Report {
    let mut legs = Vec::new();
    for course in evidence.courses {
        legs.push(course.finish(origin));
    }
    let promises = ledger::judge(plan.kind, &legs);
    let held = !interrupted && promises.iter().all(|promise| promise.held);
    let all = legs.iter().map(|leg| leg.ledger);
    Report {
        drill: plan.kind,
        version: env!("CARGO_PKG_VERSION"),
        machine: here(),
        seed: plan.seed,
        count: plan.count,
        keep_alive_clients: plan.clients,
        per_connection_clients: per_connection(plan),
        own_cluster: plan.running.is_none(),
        seconds: clock.elapsed().as_secs_f64(),
        interrupted,
        held,
        ledger: all.fold(Ledger::default(), Ledger::plus),
        promises,
        legs,
        log: if held { Vec::new() } else { evidence.log },
    }
}

fn per_connection(plan: &Plan) -> usize {
    plan.clients.div_ceil(2)
}

/// What has to be known of the machine to make sense of the numbers.
fn here() -> String {
    format!(
        "{} cores ({}), {}",
        crate::config::usable_cores(),
        machine::processor()
            .as_deref()
            .unwrap_or("of an unknown model"),
        machine::kernel()
    )
}

impl Course {
    fn finish(mut self, origin: Option<&Origin>) -> Leg {
        let mut tally = self.tallies.lock();
        self.leg.ledger = tally.ledger;
        self.leg.notables = std::mem::take(&mut tally.notables);
        drop(tally);
        // A leg that was cut short has it from here.
        if let (None, Some(origin)) = (self.leg.served_twice, origin) {
            self.leg.served_twice = Some(origin.served.twice() - self.twice_before);
        }
        self.leg
    }
}

async fn drill(
    plan: &Plan,
    origin: Option<&Origin>,
    upstream: SocketAddr,
    clock: Instant,
    evidence: &mut Evidence,
) -> Result<()> {
    let mut random = Random::new(plan.seed);
    let progress = Progress::new(plan);
    for stage in stages(plan, &mut random) {
        let mut random = random.fork();
        // Goes after the cluster, whose control socket is in it.
        let folder = Folder::make()?;
        let mut place = Place::find(plan, origin, &folder, stage.arm).await?;
        let before = Counted::by(&place.subject).await?;
        let course = Course {
            leg: Leg {
                mode: place.mode().await?,
                planned: stage.steps.len() as u64,
                ..Leg::default()
            },
            tallies: Tallies::default(),
            twice_before: origin.map_or(0, |origin| origin.served.twice()),
        };
        evidence.courses.push(course);
        let Some(course) = evidence.courses.last_mut() else {
            continue;
        };
        let load = Load {
            target: place.subject.target,
            upstream,
            keep_alive: plan.clients,
            per_connection: per_connection(plan),
            // Where waiting is what is counted, nothing may take long by itself.
            long_answers: !matches!(plan.kind, Kind::Stop | Kind::Healthy),
            served: origin.map(|origin| origin.served.clone()),
            tallies: course.tallies.clone(),
            clock,
        };
        if let Err(error) = go(&mut place, course, &stage, &load, &mut random, &progress).await {
            course.leg.broken.push(error.to_string());
        }
        if let Err(error) = sum_up(&place.subject, course, &before).await {
            course.leg.broken.push(error.to_string());
        }
        if let Some(origin) = origin {
            course.leg.served_twice = Some(origin.served.twice() - course.twice_before);
        }
        place.leave(&mut course.leg).await;
        evidence.log.extend(place.subject.log());
        progress.end();
    }
    Ok(())
}

/// The cluster of one leg.
struct Place {
    subject: Subject,
    files: Option<Files>,
    /// What somebody else's cluster goes back to.
    earlier: Option<Arm>,
}

impl Place {
    async fn find(
        plan: &Plan,
        origin: Option<&Origin>,
        folder: &Folder,
        arm: Option<Arm>,
    ) -> Result<Self> {
        if let Some(Running { control, target }) = &plan.running {
            let subject = Subject::running(control, *target).await?;
            let mut earlier = None;
            if let Some(arm) = arm {
                let report = subject.workers().await?;
                earlier = arm_of(&report.mode, &report.policy);
                subject.ask(&faults::verb(arm)).await?;
            }
            return Ok(Self {
                subject,
                files: None,
                earlier,
            });
        }
        let (Some(origin), Some(arm)) = (origin, arm) else {
            return Err(Error::failed(
                "a cluster of the drill's own has an upstream and a mode",
            ));
        };
        let control = folder.file("control.sock");
        let files = match plan.kind {
            Kind::Reload => Some(Files::make(folder, &control, origin.address, arm)?),
            _ => None,
        };
        let arguments = match &files {
            Some(files) => files.arguments(),
            None => flags(plan, origin, &control, arm),
        };
        Ok(Self {
            subject: Subject::start(&arguments, control).await?,
            files,
            earlier: None,
        })
    }

    /// The mode in force.
    async fn mode(&self) -> Result<String> {
        Ok(self.subject.workers().await?.mode)
    }

    /// Puts back what was in force before the drill came.
    async fn leave(&self, leg: &mut Leg) {
        if let Some(arm) = self.earlier
            && let Err(error) = self.subject.ask(&faults::verb(arm)).await
        {
            leg.broken.push(format!("cannot go back to {arm}: {error}"));
        }
    }
}

fn arm_of(mode: &str, policy: &str) -> Option<Arm> {
    let is_it = |arm: &&Arm| arm.mode().name() == mode && arm.policy_name() == policy;
    Arm::ALL.iter().find(is_it).copied()
}

/// The flags of the drill's own cluster.
fn flags(plan: &Plan, origin: &Origin, control: &std::path::Path, arm: Arm) -> Vec<OsString> {
    let upstream = format!("http://{}", origin.address);
    let workers = plan.workers.to_string();
    let pairs = [
        ("--listen", "127.0.0.1:0"),
        ("--admin", "127.0.0.1:0"),
        ("--upstream", upstream.as_str()),
        ("--mode", arm.mode().name()),
        ("--workers", workers.as_str()),
        ("--drain-timeout", "10"),
        // Or waiting for successors would be most of the drill.
        ("--backoff-limit", "0.1"),
    ];
    let mut flags: Vec<OsString> = Vec::new();
    for (flag, value) in pairs {
        flags.extend([flag.into(), value.into()]);
    }
    if let Some(policy) = arm.policy() {
        flags.extend(["--policy".into(), policy.name().into()]);
    }
    flags.extend(["--control".into(), control.into()]);
    flags
}

/// Clients run, faults happen. The first fault is the warm-up: it makes the cluster allocate whatever
/// it needs for the others. After it the clients go for a moment, and what is held then is what must
/// be held in the end.
async fn go(
    place: &mut Place,
    course: &mut Course,
    stage: &Stage,
    load: &Load,
    random: &mut Random,
    progress: &Progress,
) -> Result<()> {
    let open_before = open(&place.subject.metrics().await?);
    let mut in_force = None;
    for (n, steps) in [&stage.steps[..1], &stage.steps[1..]]
        .into_iter()
        .enumerate()
    {
        let failed = |error| Error::runtime("cannot start clients", error);
        let traffic = Traffic::start(load.clone(), random.fork()).map_err(failed)?;
        served(&course.tallies, course.tallies.ledger(), 2 * BETWEEN).await?;
        for step in steps {
            let before = course.tallies.ledger();
            served(&course.tallies, before, BETWEEN).await?;
            sleep(random.time_up_to(PHASE)).await;
            let at = load.clock.elapsed().as_secs_f64();
            let found = faults::inject(*step, &mut place.site(course, random, load)).await?;
            course.leg.faults.push(Row {
                fault: found.fault,
                at,
                seconds: load.clock.elapsed().as_secs_f64() - at,
                ledger: course.tallies.ledger().since(before),
                facts: found.facts,
                broken: found.broken,
            });
            progress.show(&course.leg, course.tallies.ledger());
        }
        served(&course.tallies, course.tallies.ledger(), 2 * BETWEEN).await?;
        if n == 0 {
            in_force = Some(place.state(course).await?);
        } else if let Some(state) = &in_force {
            // What is held may well depend on what is in force.
            place.back_to(state, course, random, load).await?;
        }
        traffic.stop().await;
        let subject = &place.subject;
        let open = quiet(subject, open_before).await?;
        if n == 0 {
            course.leg.before = Some(steady(subject, None).await);
        }
        course.leg.open_after = Some(open);
    }
    course.leg.after = Some(steady(&place.subject, course.leg.before).await);
    Ok(())
}

/// Which of several things is in force.
struct InForce {
    file: Option<usize>,
    arm: Option<Arm>,
}

impl Place {
    fn site<'a>(&'a mut self, course: &'a Course, random: &'a mut Random, load: &Load) -> Site<'a> {
        Site {
            subject: &self.subject,
            tallies: &course.tallies,
            random,
            clock: load.clock,
            files: self.files.as_mut(),
        }
    }

    async fn state(&self, _: &Course) -> Result<InForce> {
        let report = self.subject.workers().await?;
        Ok(InForce {
            file: self.files.as_ref().map(Files::in_force),
            arm: arm_of(&report.mode, &report.policy),
        })
    }

    async fn back_to(
        &mut self,
        state: &InForce,
        course: &Course,
        random: &mut Random,
        load: &Load,
    ) -> Result<()> {
        let report = self.subject.workers().await?;
        if let Some(which) = state.file {
            if self.files.as_ref().map(Files::in_force) != Some(which) {
                faults::take_up(&mut self.site(course, random, load), which).await?;
            }
        } else if let Some(arm) = state.arm
            && arm_of(&report.mode, &report.policy) != Some(arm)
        {
            self.subject.ask(&faults::verb(arm)).await?;
        }
        Ok(())
    }
}

/// Waits until clients have had `more` right answers than in `ledger`.
async fn served(tallies: &Tallies, ledger: Ledger, more: u64) -> Result<()> {
    let flows = traffic::flows(tallies, ledger, more);
    timeout(DEADLINE, flows)
        .await
        .map_err(|_| Error::failed("clients get no right answers any more"))
}

/// Waits until it is known for which attempts before `at` the machine is to blame.
async fn judged(tallies: &Tallies, at: f64) -> Result<()> {
    timeout(DEADLINE, traffic::judged(tallies, at))
        .await
        .map_err(|_| Error::failed("the drill's own upstream does not answer any more"))
}

fn open(metrics: &Metrics) -> u64 {
    metrics.sum("pointsman_connections_open", "")
}

/// Waits until no more connections are open than before the clients came. Returns how many too many
/// there are in the end.
async fn quiet(subject: &Subject, before: u64) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let more = open(&subject.metrics().await?).saturating_sub(before);
        if more == 0 || begun.elapsed() > QUIET {
            return Ok(more);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// What the cluster holds once that no longer changes; the look itself, over a connection to the
/// admin interface, has its part in it for a moment. In the end it may take a while to be as `before`.
async fn steady(subject: &Subject, before: Option<Footprint>) -> Footprint {
    let begun = Instant::now();
    let mut last = subject.footprint();
    let mut same = 0;
    loop {
        sleep(Duration::from_millis(20)).await;
        let now = subject.footprint();
        let counts = |f: Footprint| (f.descriptors, f.processes, f.zombies);
        same = if counts(now) == counts(last) {
            same + 1
        } else {
            0
        };
        last = now;
        let is_back = before.is_none_or(|b| {
            now.descriptors <= b.descriptors && now.processes <= b.processes && now.zombies == 0
        });
        if same >= 5 && is_back || begun.elapsed() > QUIET {
            return now;
        }
    }
}

/// Reads off the counters what the leg has added to them.
async fn sum_up(subject: &Subject, course: &mut Course, before: &Counted) -> Result<()> {
    let after = Counted::by(subject).await?;
    let grown = |name: &str, label: &str| {
        let of = |counted: &Counted| counted.metrics.sum(name, label);
        of(&after).saturating_sub(of(before))
    };
    course.leg.lost = grown("pointsman_connections_lost_total", "");
    course.leg.restarts = grown("pointsman_worker_restarts_total", "killed");
    course.leg.hung = after.hung.saturating_sub(before.hung);
    Ok(())
}

/// What the cluster has counted up to a moment.
struct Counted {
    metrics: Metrics,
    /// How often workers were found stuck.
    hung: u64,
}

impl Counted {
    async fn by(subject: &Subject) -> Result<Self> {
        let workers = subject.workers().await?.workers;
        Ok(Self {
            metrics: subject.metrics().await?,
            hung: workers.iter().map(|worker| worker.hung).sum(),
        })
    }
}

/// Tells how far the drill is, on standard error: a line for each leg, which on a terminal grows.
struct Progress {
    name: &'static str,
    is_terminal: bool,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        Self {
            name: plan.kind.name(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&self, leg: &Leg, ledger: Ledger) {
        let (done, planned) = (leg.faults.len() as u64, leg.planned);
        if !self.is_terminal && done < planned {
            return;
        }
        let text = format!(
            "drill {}: {}: {done} of {planned}, {} attempts, {} failed",
            self.name,
            leg.mode,
            ledger.attempts,
            ledger.failed()
        );
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
        } else {
            crate::notice(format_args!("{text}"));
        }
    }

    fn end(&self) {
        if self.is_terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind, count: usize) -> Plan {
        Plan {
            kind,
            count,
            seed: 1,
            modes: Modes::All,
            clients: 8,
            workers: 4,
            healthy: Duration::from_secs(60),
            running: None,
        }
    }

    fn steps(plan: &Plan) -> Vec<Vec<Step>> {
        let stages = stages(plan, &mut Random::new(plan.seed));
        stages.into_iter().map(|stage| stage.steps).collect()
    }

    #[test]
    fn the_count_is_split_over_the_modes_and_nothing_is_lost() {
        for (count, expected) in [(100, vec![25; 4]), (6, vec![2, 2, 1, 1]), (2, vec![1, 1])] {
            let legs = steps(&plan(Kind::Kill, count));
            assert_eq!(legs.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        }
        let one = Plan {
            modes: Modes::One(Mode::Shared),
            ..plan(Kind::Stop, 20)
        };
        assert_eq!(steps(&one), [[Step::Stop; 20]]);
        let quarter = Step::Healthy(Duration::from_secs(15));
        assert_eq!(steps(&plan(Kind::Healthy, 1)), vec![vec![quarter]; 4]);
    }

    #[test]
    fn every_way_to_break_a_reload_or_an_upgrade_has_its_turn() {
        let all: Vec<Step> = steps(&plan(Kind::Reload, 30)).concat();
        assert_eq!(all.iter().filter(|s| **s == Step::Reload).count(), 30);
        for way in 0..faults::BROKEN_RELOADS {
            assert!(all.contains(&Step::BrokenReload(way)), "{way}");
        }
        assert_eq!(all.len(), 60);
        let all: Vec<Step> = steps(&plan(Kind::Upgrade, 20)).concat();
        assert_eq!(all.iter().filter(|s| **s == Step::Upgrade).count(), 20);
        for way in 0..faults::BAD_UPGRADES {
            assert!(all.contains(&Step::BadUpgrade(way)), "{way}");
        }
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn somebody_elses_configuration_is_not_broken() {
        let running = Running {
            control: "/run/x.sock".into(),
            target: "127.0.0.1:80".parse().expect("an address"),
        };
        let plan = Plan {
            running: Some(running),
            modes: Modes::AsItIs,
            ..plan(Kind::Reload, 5)
        };
        assert_eq!(steps(&plan), [[Step::Reload; 5]]);
    }

    #[test]
    fn switching_goes_through_all_arms_in_an_order_of_the_seed() {
        let one = plan(Kind::Switch, 20);
        let other = Plan {
            seed: 2,
            ..one.clone()
        };
        let (a, b) = (steps(&one).concat(), steps(&other).concat());
        assert_eq!(a, steps(&one).concat());
        assert_ne!(a, b);
        assert_eq!(a.len(), 20);
        for arm in Arm::ALL {
            assert!(a[..8].contains(&Step::Switch(arm)), "{arm}");
            assert!(a[8..16].contains(&Step::Switch(arm)), "{arm}");
        }
    }
}
