//! Round by round through the arms.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Arena, Look, Plan};
use crate::{
    compare::{self, Arm, Block, Circumstances, Comparison, Drive, Ending, Open, Source},
    error::{Error, Result},
    load::{Order, Outcome, driver::Load},
    processes::{self, Delta, Snapshot},
    scoreboard::histogram,
};

/// Between two looks at the open connections, at most. Each costs the program under test a fraction of a millisecond,
/// in every arm alike.
const LOOK: Duration = Duration::from_millis(200);

/// What a comparison is told besides what was measured.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where it is made.
    pub source: Source,
    /// Where and how.
    pub circumstances: Circumstances,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// In which round; 0: in the trial before the first.
    pub round: u32,
    /// Of how many, once that is known.
    pub rounds: Option<u32>,
    /// Which arm is visited.
    pub arm: usize,
    /// Its name.
    pub name: String,
    /// What is done of it all, 0 to 1.
    pub done: f64,
    /// About how long it still takes.
    pub left: Duration,
}

/// Measures until the plan is carried out, `stop` completes or something breaks: what there is by then is in
/// the comparison, and how it ended. `tell` hears of every block before it begins. Must be called on
/// the main thread.
pub async fn run<A: Arena>(
    arena: &mut A,
    plan: &Plan,
    frame: Frame,
    stop: impl Future<Output = ()>,
    tell: impl FnMut(&Progress),
) -> Comparison {
    let arms = arena.arms().to_vec();
    let mut course = Course {
        plan,
        tell,
        clock: Instant::now(),
        comparison: Comparison {
            source: frame.source,
            scenario: plan.scenario.name().into(),
            load: plan.words(plan.rate),
            circumstances: frame.circumstances,
            arms,
            blocks: Vec::new(),
            rounds: 0,
            ending: Ending::Running,
        },
        lost: 0,
        lag: histogram::Snapshot::default(),
    };
    course.tell_of_what_is_planted();
    let ending = tokio::select! {
        biased;
        () = stop => Ending::Interrupted,
        done = course.go(arena) => match done {
            Ok(()) => Ending::Complete,
            Err(error) => Ending::Failed { why: error.to_string() },
        },
    };
    course.finish(ending)
}

/// A comparison while it is made.
struct Course<'a, T> {
    plan: &'a Plan,
    tell: T,
    clock: Instant,
    comparison: Comparison,
    /// Blocks in which threads of the program ended.
    lost: u32,
    /// What the clients themselves were late by, in open load.
    lag: histogram::Snapshot,
}

/// A visit to an arm.
#[derive(Debug, Clone, Copy)]
struct Visit {
    arm: usize,
    /// 0: in the trial.
    round: u32,
    /// From 1.
    position: u32,
}

/// What the trial has shown.
struct Trial {
    /// Requests a second of open load.
    rate: f64,
    /// What a block takes beside its measuring and its warm-up.
    around: Duration,
}

impl<T: FnMut(&Progress)> Course<'_, T> {
    async fn go<A: Arena>(&mut self, arena: &mut A) -> Result<()> {
        let trial = self.trial(arena).await?;
        let arms = self.comparison.arms.len();
        let gone = self.clock.elapsed();
        let rounds = self.plan.rounds(arms, trial.around, gone);
        self.comparison.rounds = rounds;
        self.comparison.load = self.plan.words(Some(trial.rate));
        let drives = self.plan.blocks(trial.rate);
        let (mut done, all) = (0, rounds as usize * arms * drives.len());
        let begun = Instant::now();
        let block_takes = self.plan.warm_up + self.plan.block + trial.around;
        for round in 1..=rounds {
            for (place, arm) in compare::order(round, arms).into_iter().enumerate() {
                for drive in &drives {
                    // By what blocks have taken so far, once some have.
                    let takes = match done {
                        0 => block_takes,
                        n => begun.elapsed() / n as u32,
                    };
                    let progress = Progress {
                        round,
                        rounds: Some(rounds),
                        arm,
                        name: self.comparison.arms[arm].name.clone(),
                        done: done as f64 / all as f64,
                        left: takes * (all - done) as u32,
                    };
                    (self.tell)(&progress);
                    let visit = Visit {
                        arm,
                        round,
                        position: place as u32 + 1,
                    };
                    let block = self.block(arena, visit, *drive).await?;
                    self.comparison.blocks.push(block);
                    done += 1;
                }
            }
        }
        Ok(())
    }

    /// Nobody is to take for a result what we have made.
    fn tell_of_what_is_planted(&mut self) {
        if let Some(planted) = &self.plan.planted {
            let name = &self.comparison.arms[planted.arm].name;
            let note = format!(
                "On purpose {name} has another task than the others: {} instead of {}.",
                planted.path, self.plan.path
            );
            self.comparison.circumstances.notes.push(note);
        }
    }

    /// Visits every arm once for a short while: whatever is done for the first time is done, and it is known
    /// what the arms can do. Nothing of it counts.
    async fn trial<A: Arena>(&mut self, arena: &mut A) -> Result<Trial> {
        let is_twin = |arm: &Arm| arm.twin_of.is_some();
        let arms: Vec<usize> = (0..self.comparison.arms.len())
            .filter(|arm| !is_twin(&self.comparison.arms[*arm]))
            .collect();
        let (mut done, mut around) = (Vec::new(), Duration::ZERO);
        for arm in arms.iter().copied() {
            let name = self.comparison.arms[arm].name.clone();
            let progress = Progress {
                round: 0,
                rounds: None,
                arm,
                name: name.clone(),
                done: 0.0,
                left: self
                    .plan
                    .time(self.comparison.arms.len())
                    .saturating_sub(self.clock.elapsed()),
            };
            (self.tell)(&progress);
            let begun = Instant::now();
            let visit = Visit {
                arm,
                round: 0,
                position: 0,
            };
            let block = self.block(arena, visit, Drive::Closed).await?;
            if block.requests == 0 {
                return Err(Error::failed(format!(
                    "no request to {name} was answered as it should be in {:.1} s, and {} were not: \
                     look whether {} answers with 2xx there",
                    block.seconds,
                    block.errors,
                    self.plan.path(arm)
                )));
            }
            done.push(block.requests as f64 / block.seconds);
            let measured = self.plan.warm_up + self.plan.trial_block();
            around += begun.elapsed().saturating_sub(measured) / arms.len() as u32;
        }
        let rate = self
            .plan
            .rate
            .unwrap_or_else(|| self.usual_rate(&arms, &done));
        Ok(Trial { rate, around })
    }

    /// The rate of open load, and a note on where it comes from.
    fn usual_rate(&mut self, arms: &[usize], done: &[f64]) -> f64 {
        let Some((slowest, rate)) = Plan::usual_rate(done) else {
            return 1.0;
        };
        if self.plan.loops != super::Loops::Closed {
            let name = &self.comparison.arms[arms[slowest]].name;
            self.comparison.circumstances.notes.push(format!(
                "Open load, {rate:.0} requests a second for every arm, is half of what the slowest, {name}, did in \
                 a short trial."
            ));
        }
        rate
    }

    async fn block<A: Arena>(
        &mut self,
        arena: &mut A,
        visit: Visit,
        drive: Drive,
    ) -> Result<Block> {
        let Visit {
            arm,
            round,
            position,
        } = visit;
        arena.enter(arm).await?;
        let order = self.order(arena, visit, drive);
        // Before the warm-up, in which connections that stay are opened.
        let before = arena.look(arm).await?;
        let root = arena.root(arm);
        let tree = processes::tree(root)?;
        let mut load = Load::start(&self.plan.program, &order, self.load_cores())?;
        load.begun().await?;
        let earlier = Snapshot::of(root, &tree)?;
        let began = Instant::now();
        let between = LOOK.min(order.duration / 4);
        let (outcome, open) = attend(arena, arm, between, &mut load).await?;
        // At once those that are known, and then whoever has come since: to look for those takes longer.
        let later = Snapshot::of(root, &tree)?.or(Snapshot::take(root)?);
        let Delta { used, lost_threads } = later.since(&earlier);
        let after = arena.look(arm).await?;
        self.lost += u32::from(lost_threads > 0);
        if round > 0 {
            self.lag.merge(&outcome.lag);
        }
        Ok(Block {
            arm,
            round,
            position,
            drive,
            began: began.duration_since(self.clock).as_secs_f64(),
            seconds: outcome.seconds,
            requests: outcome.requests,
            errors: outcome.errors.total(),
            connections: outcome.connections,
            used,
            lost_threads,
            latency: outcome.latency,
            handoff: after.handoff.since(&before.handoff),
            open,
            own_share: 1.0,
        })
    }

    fn order<A: Arena>(&self, arena: &A, visit: Visit, drive: Drive) -> Order {
        let plan = self.plan;
        let block = match visit.round {
            0 => plan.trial_block(),
            _ => plan.block,
        };
        Order {
            target: arena.target(visit.arm),
            host: plan.host.clone(),
            scenario: plan.scenario,
            path: plan.path(visit.arm).into(),
            slow_path: plan.slow_path.clone(),
            clients: plan.clients,
            addresses: plan.addresses,
            drive,
            poisson: plan.poisson,
            warm_up: plan.warm_up,
            duration: block,
            timeout: plan.timeout,
            // The same for all arms of a round: what differs between them is not what they were asked for.
            seed: plan.seed.wrapping_add(u64::from(visit.round)),
        }
    }

    fn load_cores(&self) -> Option<&[usize]> {
        let cores = &self.plan.load_cores;
        (!cores.is_empty()).then_some(cores)
    }

    fn finish(mut self, ending: Ending) -> Comparison {
        if self.lost > 0 {
            self.comparison.circumstances.notes.push(format!(
                "Threads of the program ended in {} blocks: what they used last is missing there.",
                self.lost
            ));
        }
        // On two cores clients have to wait for one, too; that is nothing that an arm has done.
        if let Some(late) = self.lag.interpolated(0.99) {
            self.comparison.circumstances.notes.push(format!(
                "In open load the clients themselves sent one request in a hundred {:.2} ms late or later; latency \
                 has that in it.",
                late * 1000.0
            ));
        }
        self.comparison.ending = ending;
        self.comparison
    }
}

/// Waits until the load has ended, and looks at the arena meanwhile.
async fn attend<A: Arena>(
    arena: &mut A,
    arm: usize,
    between: Duration,
    load: &mut Load,
) -> Result<(Outcome, Vec<Open>)> {
    let begun = Instant::now();
    let mut open = Vec::new();
    let mut looks = interval(between);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first comes at once, when everybody connects.
    looks.tick().await;
    let ended = load.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            outcome = &mut ended => return Ok((outcome?, open)),
            _ = looks.tick() => {
                let Look { open_by_worker, .. } = arena.look(arm).await?;
                if !open_by_worker.is_empty() {
                    open.push(Open { at: begun.elapsed().as_secs_f64(), by_worker: open_by_worker });
                }
            }
        }
    }
}
