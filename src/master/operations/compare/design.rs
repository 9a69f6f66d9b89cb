//! What is compared, made of what was asked for. Pure.

use std::time::Duration;

use crate::{
    compare::{self, Circumstances, Comparison, Ending, Source},
    control::ComparePlan,
    dispatch::mode::Arm,
    error::Result,
};

/// The share of a block, and the most of it, in which nothing is measured: what came just before belongs
/// to the arm before.
const SETTLING: f64 = 0.1;
const LONGEST_SETTLING: Duration = Duration::from_secs(1);
/// How many looks at who has what open are kept of a block: a long one must not grow without bound.
const PICTURES: u32 = 10;
/// Between two looks at how clients fare.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A comparison that makes sense.
pub(super) struct Design {
    /// The base, its twin, and all others.
    pub(super) arms: Vec<Arm>,
    /// What was there before, and will be again.
    pub(super) in_force: Arm,
    pub(super) plan: ComparePlan,
}

impl Design {
    /// What `plan` asks for. `allowed` says whether an arm is possible, and if not why; `in_force` is the
    /// base where none is named.
    ///
    /// # Errors
    /// It makes no sense, or an arm that it names is not possible.
    pub(super) fn of(
        plan: ComparePlan,
        in_force: Arm,
        allowed: impl Fn(Arm) -> Result<()>,
    ) -> Result<Self> {
        let mut arms = plan.check()?;
        arms.iter().try_for_each(|arm| allowed(*arm))?;
        if arms.is_empty() {
            arms.push(in_force);
            let others = Arm::ALL.into_iter();
            arms.extend(others.filter(|arm| *arm != in_force && allowed(*arm).is_ok()));
        }
        arms.insert(1, arms[0]);
        plan.check_length(arms.len())?;
        Ok(Self {
            arms,
            in_force,
            plan,
        })
    }

    /// Is it the base or its twin?
    pub(super) fn is_base(&self, arm: usize) -> bool {
        arm < 2
    }

    /// All blocks in their order: round, place in it, arm.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u32, u32, usize)> {
        let arms = self.arms.len();
        (1..=self.plan.rounds).flat_map(move |round| {
            let order = compare::order(round, arms).into_iter();
            (1..)
                .zip(order)
                .map(move |(place, arm)| (round, place, arm))
        })
    }

    /// How long each block is not measured at its beginning.
    pub(super) fn settling(&self) -> Duration {
        self.plan.block().mul_f64(SETTLING).min(LONGEST_SETTLING)
    }

    /// How often the guard looks.
    pub(super) fn look(&self) -> Duration {
        (self.plan.block() / 10).clamp(LOOKS.0, LOOKS.1)
    }

    /// How far apart the looks are of which it is kept what each worker has open.
    pub(super) fn picture(&self) -> Duration {
        self.plan.block() / PICTURES
    }

    /// The comparison, of which nothing is measured yet.
    pub(super) fn comparison(&self, workers: u16, circumstances: Circumstances) -> Comparison {
        let mut arms: Vec<compare::Arm> =
            self.arms.iter().copied().map(compare::Arm::ours).collect();
        arms[1] = arms[0].twin();
        let mut circumstances = circumstances;
        circumstances.notes.extend([
            format!("Live traffic, {workers} workers; latencies are the server's."),
            "Requests over connections that another arm dispatched are counted too: the share of an arm's own is told."
                .into(),
        ]);
        if self.plan.renew {
            let note = "At the beginning of each block clients were asked to connect anew.";
            circumstances.notes.push(note.into());
        }
        Comparison {
            source: Source::Live,
            scenario: "live".into(),
            load: "the traffic that there was".into(),
            circumstances,
            arms,
            blocks: Vec::new(),
            rounds: self.plan.rounds,
            ending: Ending::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dispatch::mode::Mode, error::Error};

    fn no_reuseport(arm: Arm) -> Result<()> {
        match arm.mode() {
            Mode::Reuseport => Err(Error::usage("there is but one listener")),
            _ => Ok(()),
        }
    }

    #[test]
    fn the_base_runs_twice_and_what_is_not_possible_not_at_all() {
        let in_force = Arm::ALL[6];
        let design = Design::of(ComparePlan::default(), in_force, no_reuseport).expect("sense");
        assert_eq!(design.arms[..2], [in_force; 2]);
        assert_eq!(design.arms.len(), 8, "all but reuseport, and the twin");
        let named = |names: &[&str]| ComparePlan {
            arms: names.iter().map(|name| (*name).into()).collect(),
            ..ComparePlan::default()
        };
        let design = Design::of(named(&["hybrid", "shared"]), in_force, no_reuseport);
        let names = design.expect("sense").arms;
        assert_eq!(names, [Arm::ALL[4], Arm::ALL[4], Arm::ALL[6]]);
        let arms = Design::of(named(&["shared", "hybrid"]), in_force, no_reuseport)
            .expect("sense")
            .comparison(2, Circumstances::default())
            .arms;
        let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["shared", "shared, again", "hybrid/least-loaded"]);
        assert_eq!(arms[1].twin_of, Some(0));
        let lines = "mode = \"hybrid\"\npolicy = \"least-loaded\"\n";
        assert_eq!(arms[2].configuration.as_deref(), Some(lines));
        let design = Design::of(named(&["shared", "reuseport"]), in_force, no_reuseport);
        assert!(design.is_err_and(|error| error.to_string().contains("one listener")));
    }

    #[test]
    fn every_round_visits_every_arm() {
        let plan = ComparePlan {
            rounds: 3,
            ..ComparePlan::default()
        };
        let design = Design::of(plan, Arm::ALL[1], |_| Ok(())).expect("sense");
        let blocks: Vec<_> = design.blocks().collect();
        assert_eq!(blocks.len(), 27);
        for round in 1..=3 {
            let of_round = blocks.iter().filter(|(r, ..)| *r == round);
            let mut arms: Vec<usize> = of_round.clone().map(|(.., arm)| *arm).collect();
            arms.sort_unstable();
            assert_eq!(arms, (0..9).collect::<Vec<_>>());
            let places: Vec<u32> = of_round.map(|(_, place, _)| *place).collect();
            assert_eq!(places, (1..=9).collect::<Vec<_>>());
        }
    }
}
