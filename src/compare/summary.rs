//! From blocks to what can be said of each arm.

use super::{
    Arm, ArmSummary, Block, Comparison, Contrast, Drive, Floor, Report, Source, Summary, Verdict,
    recommendation,
    rounds::{Kind, Rounds, Totals},
    statistics::{Basis, estimate, median},
    words::{Measure, list, percent},
};
use crate::scoreboard::histogram::Snapshot;

/// Beyond a thousand times something is broken, or there is no telling; and all that is reported stays finite.
const FARTHEST: f64 = 6.907_755_278_982_137; // ln 1000
/// Who answers less than this share of what is planned has a queue that grows.
const KEEPS_UP: f64 = 0.9;

impl Comparison {
    /// Does it hold nothing that was measured?
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// What can be said of it so far.
    pub fn summarise(&self) -> Summary {
        let judge = Judge::of(self);
        let arms: Vec<ArmSummary> = (0..self.arms.len()).map(|arm| judge.arm(arm)).collect();
        Summary {
            recommendation: recommendation::recommend(&judge, &arms),
            floor: judge.floor,
            arms,
        }
    }

    /// It, with what can be said of it.
    pub fn report(self) -> Report {
        Report {
            summary: self.summarise(),
            comparison: self,
        }
    }

    /// How long all requests of `arm` took; of planned arrivals where it had any.
    pub(super) fn pooled_latency(&self, arm: usize) -> Snapshot {
        let blocks = || self.blocks_of(arm);
        let planned = blocks().any(|b| Kind::Planned.holds(b.drive) && b.requests > 0);
        let kind = if planned { Kind::Planned } else { Kind::Demand };
        merged(blocks().filter(|b| kind.holds(b.drive)).map(|b| &b.latency))
    }

    /// Is all that it knows of latency from clients that wait for their answers?
    pub(super) fn is_closed(&self) -> bool {
        let mut drives = self.blocks.iter().map(|block| block.drive);
        !self.blocks.is_empty() && drives.all(|drive| drive == Drive::Closed)
    }

    /// How many requests of `arm` were answered while they were measured, by how many were planned then.
    fn share_answered(&self, arm: usize) -> Option<f64> {
        let planned = self
            .blocks_of(arm)
            .filter(|b| Kind::Planned.holds(b.drive))
            .map(|b| (b.requests, b.latency.count()));
        let (answered, planned) = planned.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (planned > 0).then(|| answered as f64 / planned as f64)
    }

    pub(super) fn blocks_of(&self, arm: usize) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.arm == arm)
    }
}

impl ArmSummary {
    /// What it differs by from the base.
    pub(super) fn contrast(&self, measure: Measure) -> Option<&Contrast> {
        match measure {
            Measure::Throughput => self.throughput.as_ref(),
            Measure::Cpu => self.cpu.as_ref(),
            Measure::P50 => self.latency_p50.as_ref(),
            Measure::P99 => self.latency_p99.as_ref(),
        }
    }

    /// In how many of its requests it failed, 0 to 1.
    pub(super) fn failures(&self) -> f64 {
        self.errors as f64 / (self.requests + self.errors).max(1) as f64
    }
}

impl Floor {
    pub(super) fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Throughput => self.throughput,
            Measure::Cpu => self.cpu,
            Measure::P50 => self.p50,
            Measure::P99 => self.p99,
        }
    }

    /// `throughput 2.1 %, CPU 1.3 %`; what there is.
    pub(super) fn words(&self) -> String {
        let known = Measure::ALL
            .iter()
            .filter_map(|m| Some(format!("{} {}", m.name(), percent(self.of(*m)?))));
        known.collect::<Vec<_>>().join(", ")
    }
}

/// Lays arms beside each other.
pub(super) struct Judge<'a> {
    pub(super) comparison: &'a Comparison,
    rounds: Rounds,
    pub(super) floor: Option<Floor>,
}

/// One arm against another, and how probable it is to find as much where there is nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding {
    pub(super) contrast: Contrast,
    pub(super) chance: f64,
}

impl<'a> Judge<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        let mut judge = Self {
            comparison,
            rounds: Rounds::of(comparison),
            floor: None,
        };
        let twins = comparison
            .arms
            .iter()
            .enumerate()
            .filter_map(|(arm, a)| Some((arm, a.twin_of?)));
        let twins: Vec<(usize, usize)> = twins
            .filter(|(_, of)| *of < comparison.arms.len())
            .collect();
        if !twins.is_empty() {
            let floor = |measure| judge.noise(&twins, measure);
            judge.floor = Some(Floor {
                throughput: floor(Measure::Throughput),
                cpu: floor(Measure::Cpu),
                p50: floor(Measure::P50),
                p99: floor(Measure::P99),
            });
        }
        judge
    }

    /// How far from 1 the intervals around equal arms' ratios reach: at least half of the interval's width.
    fn noise(&self, twins: &[(usize, usize)], measure: Measure) -> Option<f64> {
        let reaches = twins.iter().filter_map(|(twin, of)| {
            let Contrast {
                low, high, verdict, ..
            } = self.against(*twin, *of, measure)?.contrast;
            (verdict != Verdict::TooLittle).then(|| distance(low).max(distance(high)))
        });
        reaches.max_by(f64::total_cmp)
    }

    /// `arm` against `base`. `None`: there is no round in which both can be compared.
    pub(super) fn against(&self, arm: usize, base: usize, measure: Measure) -> Option<Finding> {
        let both = |kind| self.rounds.has(arm, kind) && self.rounds.has(base, kind);
        let prefer = |first, second| if both(first) { first } else { second };
        let logs = |kind, value: fn(&Totals) -> Option<f64>| {
            self.rounds.log_ratios(arm, base, kind, value)
        };
        let logs = match measure {
            // How many requests are answered of those that were planned tells nothing of what could be.
            Measure::Throughput => logs(Kind::Demand, Totals::throughput),
            Measure::Cpu => {
                let (first, second) = self.kinds_of_cost();
                logs(prefer(first, second), Totals::cpu)
            }
            Measure::P50 => logs(prefer(Kind::Planned, Kind::Demand), |t| {
                t.latency.interpolated(0.5)
            }),
            Measure::P99 => logs(prefer(Kind::Planned, Kind::Demand), |t| {
                t.latency.interpolated(0.99)
            }),
        };
        self.finding(&logs, measure)
    }

    /// Where CPU time is looked at first, and where else. With planned arrivals all arms do the same work, and
    /// cores have time to spare: what an arm costs is its own doing, where at capacity it also depends on how long
    /// everybody waits for everybody. But the plan of a comparison of programs goes by the slowest of them, and
    /// would have the others idle: those are looked at at capacity.
    fn kinds_of_cost(&self) -> (Kind, Kind) {
        match self.comparison.source {
            Source::Bench => (Kind::Planned, Kind::Demand),
            Source::Live | Source::Peers => (Kind::Demand, Kind::Planned),
        }
    }

    fn finding(&self, logs: &[f64], measure: Measure) -> Option<Finding> {
        let found = estimate(logs, self.comparison.circumstances.seed)?;
        let ratio = |log: f64| log.clamp(-FARTHEST, FARTHEST).exp();
        let mut contrast = Contrast {
            ratio: ratio(found.centre),
            low: ratio(found.low.min(found.centre)),
            high: ratio(found.high.max(found.centre)),
            rounds: logs.len(),
            verdict: Verdict::NoDifference,
        };
        let chance = match found.basis {
            Basis::Sound { chance } => {
                contrast.verdict =
                    verdict(&contrast, measure, self.floor.and_then(|f| f.of(measure)));
                chance
            }
            Basis::NoSpread => 1.0,
            Basis::TooFew => {
                contrast.verdict = Verdict::TooLittle;
                1.0
            }
        };
        Some(Finding { contrast, chance })
    }

    fn arm(&self, arm: usize) -> ArmSummary {
        let blocks = || self.comparison.blocks_of(arm);
        let middle = |(first, second), value: &dyn Fn(&Totals) -> Option<f64>| {
            let kind = match self.rounds.has(arm, first) {
                true => first,
                false => second,
            };
            let totals = self.rounds.of_arm(arm);
            median(totals.filter(|t| kind.holds(t.drive)).filter_map(value))
        };
        let capacity = (Kind::Demand, Kind::Planned);
        let cost = self.kinds_of_cost();
        let latency = self.comparison.pooled_latency(arm);
        let handoff = merged(blocks().map(|b| &b.handoff));
        let contrast = |measure| match arm {
            0 => None,
            _ => self
                .against(arm, 0, measure)
                .map(|finding| finding.contrast),
        };
        let Arm { name, twin_of, .. } = &self.comparison.arms[arm];
        let mut summary = ArmSummary {
            name: name.clone(),
            twin_of: *twin_of,
            requests: blocks().map(|b| b.requests).sum(),
            errors: blocks().map(|b| b.errors).sum(),
            requests_per_second: middle(capacity, &Totals::throughput),
            cpu_us_per_request: middle(cost, &Totals::cpu),
            p50: latency.interpolated(0.5),
            p90: latency.interpolated(0.9),
            p99: latency.interpolated(0.99),
            p999: latency.interpolated(0.999),
            busiest_over_mean: median(blocks().filter_map(|b| evenness(b, busiest_over_mean))),
            open_deviation: median(blocks().filter_map(|b| evenness(b, deviation))),
            handoff_p50: handoff.interpolated(0.5),
            handoff_p99: handoff.interpolated(0.99),
            run_queue_us_per_request: middle(cost, &|t| {
                t.for_a_request(t.used.waited_ns as f64 / 1000.0)
            }),
            wakeups_per_request: middle(cost, &|t| t.for_a_request(t.used.wakeups as f64)),
            preempted_per_request: middle(cost, &|t| t.for_a_request(t.used.preempted as f64)),
            own_share: median(blocks().filter(|b| b.requests > 0).map(|b| b.own_share)),
            throughput: contrast(Measure::Throughput),
            cpu: contrast(Measure::Cpu),
            latency_p50: contrast(Measure::P50),
            latency_p99: contrast(Measure::P99),
            words: String::new(),
        };
        summary.words = self.words(arm, &summary);
        summary
    }

    fn words(&self, arm: usize, summary: &ArmSummary) -> String {
        let base = self.comparison.arms.first().map_or("", |base| &base.name);
        let mut sentences = Vec::new();
        if summary.requests == 0 {
            sentences.push("it answered nothing".to_owned());
        } else if arm == 0 {
            sentences.push("the base: the others are compared with it".to_owned());
        } else if let Some(of) = summary.twin_of.and_then(|of| self.comparison.arms.get(of)) {
            sentences.push(format!(
                "{} once more: what it differs by is noise",
                of.name
            ));
        } else {
            sentences.push(differences(summary, base));
        }
        if summary.errors > 0 {
            let share = percent(summary.failures());
            sentences.push(format!(
                "{} of its requests failed ({share})",
                summary.errors
            ));
        }
        let answered = self.comparison.share_answered(arm);
        if let Some(share) = answered.filter(|share| *share < KEEPS_UP) {
            sentences.push(format!(
                "it kept up with {} of the planned requests, so its latency says how long the blocks were rather \
                 than how quick it is",
                percent(share)
            ));
        }
        if self.comparison.blocks_of(arm).any(|b| b.lost_threads > 0) {
            sentences.push(
                "threads of it ended while it was measured: it used more CPU than was seen"
                    .to_owned(),
            );
        }
        if let Some(share) = summary
            .own_share
            .filter(|share| self.is_live() && *share < 0.5)
        {
            sentences.push(format!(
                "most of its requests ({}) came over connections that other arms had dispatched, so this says \
                 little of how it dispatches",
                percent(1.0 - share)
            ));
        }
        sentences.join("; ")
    }

    pub(super) fn is_live(&self) -> bool {
        self.comparison.source == Source::Live
            || self
                .comparison
                .blocks
                .iter()
                .any(|b| b.drive == Drive::Live)
    }
}

/// What an arm does better, does worse, and what cannot be told.
fn differences(summary: &ArmSummary, base: &str) -> String {
    let of = |wanted: Verdict| {
        let those = Measure::ALL
            .into_iter()
            .filter_map(|m| Some((m, summary.contrast(m)?)));
        those.filter(move |(_, contrast)| contrast.verdict == wanted)
    };
    let changes = |wanted| of(wanted).map(|(m, c)| m.change(c)).collect::<Vec<_>>();
    let names = |wanted| of(wanted).map(|(m, _)| m.name()).collect::<Vec<_>>();
    let mut parts = Vec::new();
    for (verdict, word) in [(Verdict::Better, "better"), (Verdict::Worse, "worse")] {
        let changes = changes(verdict);
        if !changes.is_empty() {
            parts.push(format!("{word} than {base}: {}", list(&changes)));
        }
    }
    let same = names(Verdict::NoDifference);
    if !same.is_empty() {
        parts.push(format!("{}: no difference can be told", list(&same)));
    }
    let short = names(Verdict::TooLittle);
    if !short.is_empty() {
        parts.push(format!("{}: too few rounds to say anything", list(&short)));
    }
    match parts.is_empty() {
        true => format!("it has no round in common with {base}"),
        false => parts.join("; "),
    }
}

/// What an interval says. A difference must be more than two equal arms show, as well.
fn verdict(contrast: &Contrast, measure: Measure, floor: Option<f64>) -> Verdict {
    let holds_one = contrast.low <= 1.0 && contrast.high >= 1.0;
    let in_the_noise = floor.is_some_and(|floor| distance(contrast.ratio) <= floor);
    match (contrast.ratio > 1.0) == measure.more_is_better() {
        _ if holds_one || in_the_noise => Verdict::NoDifference,
        true => Verdict::Better,
        false => Verdict::Worse,
    }
}

/// How far a ratio is from 1. Half is as far as twice: which of two equal arms is above and which below is
/// chance.
fn distance(ratio: f64) -> f64 {
    ratio.max(1.0 / ratio) - 1.0
}

fn merged<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> Snapshot {
    snapshots.fold(Snapshot::default(), |mut all, one| {
        all.merge(one);
        all
    })
}

/// The mean over a block's looks at its workers. One connection among eight workers is no unevenness: looks
/// with fewer connections than workers do not count.
fn evenness(block: &Block, of: impl Fn(&[u64], f64) -> f64) -> Option<f64> {
    let looks = block.open.iter().filter_map(|look| {
        let mean = look.by_worker.iter().sum::<u64>() as f64 / look.by_worker.len() as f64;
        (mean >= 1.0).then(|| of(&look.by_worker, mean))
    });
    let looks: Vec<f64> = looks.collect();
    (!looks.is_empty()).then(|| looks.iter().sum::<f64>() / looks.len() as f64)
}

/// How many times the mean the busiest worker has.
pub(super) fn busiest_over_mean(by_worker: &[u64], mean: f64) -> f64 {
    by_worker
        .iter()
        .max()
        .map_or(0.0, |busiest| *busiest as f64 / mean)
}

/// The standard deviation.
pub(super) fn deviation(by_worker: &[u64], mean: f64) -> f64 {
    let squares: f64 = by_worker.iter().map(|n| (*n as f64 - mean).powi(2)).sum();
    (squares / by_worker.len() as f64).sqrt()
}
