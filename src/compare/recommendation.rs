//! What to do, and why.
//!
//! An arm is recommended in the base's place if it takes less CPU for a request or answers more requests, or if
//! nothing does, if it has a lower p99 latency, and does worse in nothing. Whoever picks the best of eight finds
//! a best one even where all are equal; so what counts as a gain must stand after Holm's correction over all
//! arms and all that is weighed, besides being more than the noise floor. A loss need not: in doubt it stays as
//! it is.

use std::collections::BTreeSet;

use super::{
    ArmSummary, Ending, Recommendation, Verdict,
    statistics::{FEWEST, holm},
    summary::Judge,
    words::{Measure, capital, list, percent},
};

/// More failures than this share of the requests, and than twice as many as the arm that fails least, rule an
/// arm out.
const FAILURES: f64 = 0.0001;
/// From here on the busiest worker stands out.
const UNEVEN: f64 = 1.5;
/// Up to here it does not.
const EVEN: f64 = 1.2;

/// What to do, after what `judge` and `arms` say.
pub(super) fn recommend(judge: &Judge<'_>, arms: &[ArmSummary]) -> Recommendation {
    let advice = Advice::of(judge, arms);
    let (arm, mut sentences) = advice.decide();
    sentences.extend(advice.reservations());
    Recommendation {
        arm,
        text: sentences.join(" "),
        configuration: arm.and_then(|arm| judge.comparison.arms[arm].configuration.clone()),
    }
}

struct Advice<'a> {
    judge: &'a Judge<'a>,
    arms: &'a [ArmSummary],
    /// Neither the base nor a twin.
    candidates: Vec<usize>,
    /// They fail too often.
    out: Vec<usize>,
    /// The share of its requests in which the arm that fails least has failed.
    least_failures: f64,
    /// What stands after the correction.
    gains: Vec<Gain>,
}

#[derive(Debug, Clone, Copy)]
struct Gain {
    arm: usize,
    measure: Measure,
    /// Log of how many times better.
    size: f64,
}

impl<'a> Advice<'a> {
    fn of(judge: &'a Judge<'_>, arms: &'a [ArmSummary]) -> Self {
        let candidates = (1..arms.len()).filter(|arm| arms[*arm].twin_of.is_none());
        let mut advice = Self {
            judge,
            arms,
            candidates: candidates.collect(),
            out: Vec::new(),
            least_failures: 0.0,
            gains: Vec::new(),
        };
        let tried = arms.iter().filter(|a| a.requests + a.errors > 0);
        let least = tried.map(ArmSummary::failures).min_by(f64::total_cmp);
        let least = least.unwrap_or(0.0);
        advice.least_failures = least;
        let fails = |arm: &usize| arms[*arm].failures() > FAILURES + 2.0 * least;
        advice.out = (0..arms.len()).filter(fails).collect();
        advice.gains = advice.gains();
        advice
    }

    /// What is weighed. How many requests come on live traffic is for the clients to say.
    fn weighed(&self) -> impl Iterator<Item = Measure> {
        let live = self.judge.is_live();
        let weighed = [Measure::Cpu, Measure::Throughput, Measure::P99];
        weighed
            .into_iter()
            .filter(move |m| !(live && *m == Measure::Throughput))
    }

    fn gains(&self) -> Vec<Gain> {
        let findings = self.candidates.iter().flat_map(|arm| {
            let findings = self
                .weighed()
                .map(|measure| (*arm, measure, self.judge.against(*arm, 0, measure)));
            findings.filter_map(|(arm, measure, finding)| Some((arm, measure, finding?)))
        });
        let findings: Vec<_> = findings.collect();
        let chances: Vec<f64> = findings
            .iter()
            .map(|(_, _, finding)| finding.chance)
            .collect();
        let better = findings
            .iter()
            .zip(holm(&chances))
            .filter(|((_, _, finding), stands)| {
                *stands && finding.contrast.verdict == Verdict::Better
            });
        better
            .map(|((arm, measure, finding), _)| Gain {
                arm: *arm,
                measure: *measure,
                size: finding.contrast.ratio.ln().abs(),
            })
            .collect()
    }

    fn decide(&self) -> (Option<usize>, Vec<String>) {
        let Some(base) = self.arms.first() else {
            return (None, vec!["Nothing was compared.".to_owned()]);
        };
        if let Ending::Guarded { why } = &self.judge.comparison.ending {
            return self.after_the_guard(base, why);
        }
        if self.candidates.is_empty() {
            return (
                None,
                vec![format!("Nothing was compared with {}.", base.name)],
            );
        }
        if self.arms.iter().all(|arm| arm.requests == 0) {
            let text = "Nothing can be said: no request was answered as it should be.";
            return (None, vec![text.to_owned()]);
        }
        // A base that answers nothing has no round in which it can be compared; that is reason enough.
        if self.out.contains(&0) && self.rounds_of_base() >= FEWEST {
            return self.leave_the_base();
        }
        let rounds = self.most_rounds();
        if rounds < FEWEST {
            let text = format!(
                "Nothing can be said: {rounds} rounds can be compared, and {FEWEST} are the fewest that say anything."
            );
            return (None, vec![text]);
        }
        let fit = self.ranking(|measure| measure != Measure::P99);
        let fit = if fit.is_empty() {
            self.ranking(|_| true)
        } else {
            fit
        };
        match fit.split_first() {
            Some((best, others)) => (Some(*best), self.choose(*best, others)),
            None => (Some(0), self.stay()),
        }
    }

    /// Clients fared worse. What the guard saw is the last block, and that may be the base's own.
    fn after_the_guard(&self, base: &ArmSummary, why: &str) -> (Option<usize>, Vec<String>) {
        let last = self.judge.comparison.blocks.last().map(|block| block.arm);
        let is_base =
            |arm: usize| arm == 0 || self.arms.get(arm).is_some_and(|a| a.twin_of == Some(0));
        if last.is_some_and(is_base) {
            let text = format!(
                "Nothing is recommended: clients fared worse with {} itself, so the comparison was ended: {why}.",
                base.name
            );
            return (None, vec![text]);
        }
        let text = format!(
            "Stay with {}: the comparison was ended because clients fared worse: {why}.",
            base.name
        );
        (Some(0), vec![text])
    }

    fn most_rounds(&self) -> usize {
        let contrasts = self.candidates.iter().flat_map(|arm| {
            Measure::ALL
                .iter()
                .filter_map(|measure| self.arms[*arm].contrast(*measure))
        });
        contrasts.map(|contrast| contrast.rounds).max().unwrap_or(0)
    }

    /// Rounds in which the base was tried.
    fn rounds_of_base(&self) -> usize {
        let blocks = self.judge.comparison.blocks_of(0);
        blocks
            .map(|block| block.round)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Arms that gain in something that is `wanted` and lose in nothing, best first.
    fn ranking(&self, wanted: impl Fn(Measure) -> bool) -> Vec<usize> {
        let gain = |arm: usize| {
            let gains = self
                .gains
                .iter()
                .filter(|gain| gain.arm == arm && wanted(gain.measure));
            gains.map(|gain| gain.size).sum::<f64>()
        };
        let fit = self.candidates.iter().copied().filter(|arm| {
            gain(*arm) > 0.0 && self.losses(*arm).is_empty() && !self.out.contains(arm)
        });
        let mut fit: Vec<usize> = fit.collect();
        fit.sort_by(|a, b| gain(*b).total_cmp(&gain(*a)));
        fit
    }

    /// What `arm` does worse.
    fn losses(&self, arm: usize) -> Vec<Measure> {
        let live = self.judge.is_live();
        let counts = |m: &Measure| !(live && *m == Measure::Throughput);
        let worse = |m: &Measure| {
            self.arms[arm]
                .contrast(*m)
                .is_some_and(|c| c.verdict == Verdict::Worse)
        };
        Measure::ALL
            .into_iter()
            .filter(|m| counts(m) && worse(m))
            .collect()
    }

    fn choose(&self, best: usize, others: &[usize]) -> Vec<String> {
        let arm = &self.arms[best];
        let gained: Vec<Measure> = self
            .gains
            .iter()
            .filter(|gain| gain.arm == best)
            .map(|gain| gain.measure)
            .collect();
        let changes = gained
            .iter()
            .filter_map(|m| Some(m.change(arm.contrast(*m)?)));
        let same = Measure::ALL
            .into_iter()
            .filter(|m| !gained.contains(m))
            .filter_map(|m| {
                let verdict = arm.contrast(m)?.verdict;
                (verdict == Verdict::NoDifference).then(|| m.name())
            });
        let mut text = format!(
            "Choose {}: {}",
            arm.name,
            list(&changes.collect::<Vec<_>>())
        );
        let same: Vec<&str> = same.collect();
        if !same.is_empty() {
            text += &format!("; {} no different", list(&same));
        }
        let mut sentences = vec![text + "."];
        let (tied, behind): (Vec<usize>, Vec<usize>) = others
            .iter()
            .partition(|other| self.cannot_be_told(**other, best));
        let names = |arms: &[usize]| {
            list(
                &arms
                    .iter()
                    .map(|arm| &self.arms[*arm].name)
                    .collect::<Vec<_>>(),
            )
        };
        if !tied.is_empty() {
            sentences.push(format!(
                "No difference can be told between it and {}: any of them will do.",
                names(&tied)
            ));
        }
        if !behind.is_empty() {
            let verb = if behind.len() == 1 { "is" } else { "are" };
            sentences.push(format!(
                "{} {verb} better than {} too, but by less.",
                names(&behind),
                self.arms[0].name
            ));
        }
        sentences
    }

    /// Two arms that both are better than the base: is there nothing between them?
    fn cannot_be_told(&self, arm: usize, from: usize) -> bool {
        self.weighed().all(|measure| {
            let finding = self.judge.against(arm, from, measure);
            finding.is_none_or(|f| !matches!(f.contrast.verdict, Verdict::Better | Verdict::Worse))
        })
    }

    fn stay(&self) -> Vec<String> {
        let base = &self.arms[0].name;
        let noise = match self.judge.floor.map(|floor| floor.words()) {
            Some(words) if !words.is_empty() => {
                format!(" (two equal arms differ by up to: {words})")
            }
            _ => String::new(),
        };
        let mut traders: Vec<(f64, usize)> = self
            .candidates
            .iter()
            .filter(|arm| !self.out.contains(arm) && !self.losses(**arm).is_empty())
            .filter_map(|arm| {
                let gains = self.gains.iter().filter(|gain| gain.arm == *arm);
                Some((gains.map(|gain| gain.size).max_by(f64::total_cmp)?, *arm))
            })
            .collect();
        traders.sort_by(|a, b| b.0.total_cmp(&a.0));
        if traders.is_empty() {
            return vec![format!(
                "Stay with {base}: nothing here is better by more than the noise{noise}."
            )];
        }
        let mut sentences = vec![format!(
            "Stay with {base}: nothing here is better without being worse too."
        )];
        // Two are enough to think about.
        for (_, arm) in traders.into_iter().take(2) {
            sentences.push(self.trade(arm));
        }
        sentences
    }

    /// What `arm` would give, and what it would cost.
    fn trade(&self, arm: usize) -> String {
        let summary = &self.arms[arm];
        let words = |measures: Vec<Measure>| {
            list(
                &measures
                    .iter()
                    .filter_map(|m| Some(m.change(summary.contrast(*m)?)))
                    .collect::<Vec<_>>(),
            )
        };
        let gains = self
            .gains
            .iter()
            .filter(|gain| gain.arm == arm)
            .map(|gain| gain.measure);
        format!(
            "{} would give {}, but {}.",
            summary.name,
            words(gains.collect()),
            words(self.losses(arm))
        )
    }

    /// The base fails too often.
    fn leave_the_base(&self) -> (Option<usize>, Vec<String>) {
        let base = &self.arms[0];
        let fails = format!(
            "{} of the requests to {} failed",
            percent(base.failures()),
            base.name
        );
        let sound = self
            .candidates
            .iter()
            .copied()
            .filter(|arm| !self.out.contains(arm) && self.arms[*arm].requests > 0);
        let cost = |arm: usize| self.arms[arm].cpu_us_per_request.unwrap_or(f64::INFINITY);
        match sound.min_by(|a, b| cost(*a).total_cmp(&cost(*b))) {
            Some(arm) => {
                let chosen = &self.arms[arm];
                let text = format!(
                    "Choose {}: {fails}, and {} of those to it.",
                    chosen.name,
                    percent(chosen.failures())
                );
                (Some(arm), vec![text])
            }
            None => (
                None,
                vec![format!(
                    "Nothing can be recommended: {fails}, and no other arm did better."
                )],
            ),
        }
    }

    /// What else whoever decides should know.
    fn reservations(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let failed = self
            .out
            .iter()
            .filter(|arm| **arm != 0 && self.arms[**arm].twin_of.is_none());
        let failed: Vec<String> = failed
            .map(|arm| {
                format!(
                    "{} ({})",
                    self.arms[*arm].name,
                    percent(self.arms[*arm].failures())
                )
            })
            .collect();
        if !failed.is_empty() {
            sentences.push(format!("Out, because requests failed: {}.", list(&failed)));
        }
        if self.least_failures > FAILURES {
            sentences.push(format!(
                "With every arm requests failed, at least {} of them: see to that first.",
                percent(self.least_failures)
            ));
        }
        sentences.extend(self.unequal_twins());
        sentences.extend(self.evenness());
        let shares = self.arms.iter().filter_map(|arm| arm.own_share);
        if let Some(share) = shares
            .min_by(f64::total_cmp)
            .filter(|share| self.judge.is_live() && *share < 0.5)
        {
            sentences.push(format!(
                "Up to {} of an arm's requests came over connections that other arms had dispatched, so how \
                 connections are dispatched shows little in this; longer blocks show more.",
                percent(1.0 - share)
            ));
        }
        sentences.extend(self.early_end());
        sentences
    }

    /// Arms that are the same, and differ by more than chance explains: then something else did that, and may
    /// have done more.
    fn unequal_twins(&self) -> Option<String> {
        let findings = self.arms.iter().enumerate().flat_map(|(twin, arm)| {
            let of = arm.twin_of.filter(|of| *of < self.arms.len());
            let findings = Measure::ALL
                .into_iter()
                .filter_map(move |m| Some((m, self.judge.against(twin, of?, m)?)));
            findings.collect::<Vec<_>>()
        });
        let findings: Vec<_> = findings.collect();
        let chances: Vec<f64> = findings.iter().map(|(_, found)| found.chance).collect();
        let standing = findings.iter().zip(holm(&chances));
        let changes: Vec<String> = standing
            .filter(|((_, found), stands)| {
                *stands && !(found.contrast.low..=found.contrast.high).contains(&1.0)
            })
            .map(|((measure, found), _)| measure.change(&found.contrast))
            .collect();
        (!changes.is_empty()).then(|| {
            format!(
                "Take all of this with care: two equal arms differ by more than chance explains, {}, so something else \
                 had a hand in it.",
                list(&changes)
            )
        })
    }

    fn evenness(&self) -> Option<String> {
        let known = self.arms.iter().filter(|arm| arm.twin_of.is_none());
        let known = known.filter_map(|arm| Some((arm, arm.busiest_over_mean?)));
        let worst = known.clone().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let best = known.min_by(|a, b| a.1.total_cmp(&b.1))?;
        (worst.1 > UNEVEN && best.1 < EVEN).then(|| {
            capital(&format!(
                "where connections stay, look at how evenly they are spread: the busiest worker held {:.1} times \
                 the mean with {}, {:.1} times with {}.",
                worst.1, worst.0.name, best.1, best.0.name
            ))
        })
    }

    fn early_end(&self) -> Option<String> {
        let comparison = self.judge.comparison;
        let seen = comparison
            .blocks
            .iter()
            .map(|block| block.round)
            .max()
            .unwrap_or(0);
        let of = format!("{seen} of {} rounds", comparison.rounds);
        match &comparison.ending {
            Ending::Running => Some(format!("It is still going on: {of}.")),
            Ending::Interrupted => Some(format!("It was ended early: {of}.")),
            Ending::Failed { why } => Some(format!("It ended early, after {of}: {why}.")),
            Ending::Guarded { .. } | Ending::Complete => None,
        }
    }
}
