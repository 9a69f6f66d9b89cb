//! Why a policy picks whom it picks.
//!
//! Policies are pure, so nothing of this need be kept when a pick is made: from the same inputs the
//! scores come out again. They are computed apart from the picking, and a test holds the two together.

use std::{fmt::Write as _, net::IpAddr};

use super::{Candidate, Picker};

/// A pick, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The index of the candidate that is picked; `None`: none is ready.
    pub chosen: Option<usize>,
    /// One for each candidate, ready or not.
    pub scores: Vec<Score>,
    /// What decided.
    pub why: Why,
}

/// How a candidate looks to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// `round-robin`: how many candidates have their turn before it. The smallest wins.
    Turn(usize),
    /// `least-loaded`: the smallest load wins, among equals the smallest turn.
    Load {
        /// Its load.
        load: u32,
        /// How many candidates have their turn before it.
        turn: usize,
    },
    /// `remote-address`: its weight for this client. The largest wins.
    Weight(u64),
}

/// What decided. Candidates are given by their indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No candidate was ready.
    Nobody,
    /// There was one ready candidate, so no score mattered.
    Only,
    /// It came first in turn.
    Turn {
        /// Those whose turn it was before, and who were not ready.
        unready: Vec<usize>,
    },
    /// It had the smallest load.
    Load {
        /// That load.
        load: u32,
        /// Others with the same, whose turn comes later.
        ties: Vec<usize>,
        /// The one of these that was picked last before this.
        last: Option<usize>,
        /// Those with less, who were not ready.
        unready: Vec<usize>,
    },
    /// It had the largest weight.
    Weight {
        /// Those with more, who were not ready.
        unready: Vec<usize>,
    },
}

impl Picker {
    /// Why [`pick`](Self::pick) would pick whom it would pick, asked with the same inputs.
    pub fn explain(&self, peer: IpAddr, candidates: &[Candidate]) -> Explanation {
        let turn = candidates.partition_point(|c| c.seat < self.turn());
        let n = candidates.len();
        let turn_of = |i: usize| (i + n - turn) % n;
        let scores: Vec<Score> = match self {
            Self::RoundRobin(_) => (0..n).map(|i| Score::Turn(turn_of(i))).collect(),
            Self::LeastLoaded(_) => {
                let score = |i: usize| Score::Load {
                    load: candidates[i].load,
                    turn: turn_of(i),
                };
                (0..n).map(score).collect()
            }
            Self::RemoteAddress(policy) => {
                let weight = policy.weight(peer);
                let weights = candidates.iter().map(|c| weight(c.seat));
                weights.map(Score::Weight).collect()
            }
        };
        let ready = || (0..n).filter(|i| candidates[*i].ready);
        let chosen = ready().min_by_key(|i| scores[*i].rank(*i));
        let why = match chosen {
            None => Why::Nobody,
            Some(_) if ready().count() == 1 => Why::Only,
            Some(chosen) => self.decided_by(chosen, candidates, &scores),
        };
        Explanation {
            chosen,
            scores,
            why,
        }
    }

    fn decided_by(&self, chosen: usize, candidates: &[Candidate], scores: &[Score]) -> Why {
        let others = || (0..candidates.len()).filter(|i| *i != chosen);
        let unready = |before: &dyn Fn(Score) -> bool| -> Vec<usize> {
            others()
                .filter(|i| !candidates[*i].ready && before(scores[*i]))
                .collect()
        };
        match scores[chosen] {
            Score::Turn(mine) => Why::Turn {
                unready: unready(&|score| matches!(score, Score::Turn(turn) if turn < mine)),
            },
            Score::Load { load: mine, .. } => {
                let same =
                    |i: &usize| matches!(scores[*i], Score::Load { load, .. } if load == mine);
                let ties: Vec<usize> = others()
                    .filter(same)
                    .filter(|i| candidates[*i].ready)
                    .collect();
                // Before the first pick nobody was picked last.
                let last = self.turn().checked_sub(1);
                Why::Load {
                    load: mine,
                    last: ties
                        .iter()
                        .copied()
                        .find(|i| Some(candidates[*i].seat) == last),
                    ties,
                    unready: unready(
                        &|score| matches!(score, Score::Load { load, .. } if load < mine),
                    ),
                }
            }
            Score::Weight(mine) => Why::Weight {
                unready: unready(&|score| matches!(score, Score::Weight(weight) if weight > mine)),
            },
        }
    }
}

impl Score {
    /// Smaller is better. `i`: its candidate, the last of equals by weight.
    fn rank(self, i: usize) -> (u64, usize) {
        match self {
            Self::Turn(turn) => (0, turn),
            Self::Load { load, turn } => (load.into(), turn),
            Self::Weight(weight) => (!weight, usize::MAX - i),
        }
    }
}

impl Why {
    /// In words, where `name` says what a candidate is called.
    pub fn words(&self, name: impl Fn(usize) -> String) -> String {
        let list = |of: &[usize]| {
            let mut names: Vec<String> = of.iter().map(|i| name(*i)).collect();
            let last = names.pop().unwrap_or_default();
            match names.is_empty() {
                true => format!("worker {last}"),
                false => format!("workers {} and {last}", names.join(", ")),
            }
        };
        let mut text = String::new();
        let (unready, had) = match self {
            Self::Nobody => return "no worker was ready".into(),
            Self::Only => return "the only ready worker".into(),
            Self::Turn { unready } => {
                text.push_str("first in turn");
                (unready, "was before it")
            }
            Self::Load {
                load,
                ties,
                last,
                unready,
            } => {
                let _ = write!(text, "smallest load {load}");
                let later = match (ties.len(), last) {
                    (0, _) => None,
                    (1, Some(_)) => Some("which was served last".to_owned()),
                    (1, None) => Some("whose turn comes later".to_owned()),
                    (_, Some(last)) => Some(format!("of which {} was served last", name(*last))),
                    (_, None) => Some("whose turns come later".to_owned()),
                };
                if let Some(later) = later {
                    let _ = write!(text, "; tie with {}, {later}", list(ties));
                }
                (unready, "had less")
            }
            Self::Weight { unready } => {
                text.push_str("largest weight for this address");
                (unready, "had more")
            }
        };
        if !unready.is_empty() {
            let were = if unready.len() == 1 { "was" } else { "were" };
            let had = had.replace("was", were);
            let _ = write!(text, "; {} {had} but {were} not ready", list(unready));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::policy::{Policy, Prefixes};

    fn candidates(states: &[(bool, u32)]) -> Vec<Candidate> {
        let with = |(seat, (ready, load)): (usize, &(bool, u32))| Candidate {
            seat: seat as u16,
            ready: *ready,
            load: *load,
        };
        states.iter().enumerate().map(with).collect()
    }

    fn words(policy: Policy, turn: u16, states: &[(bool, u32)]) -> String {
        let picker = Picker::at(policy, Prefixes::default(), turn);
        let peer = "192.0.2.1".parse().expect("address");
        let explanation = picker.explain(peer, &candidates(states));
        explanation.why.words(|i| i.to_string())
    }

    #[test]
    fn words_say_what_decided() {
        use Policy::{LeastLoaded, RoundRobin};
        for (policy, turn, states, text) in [
            (
                LeastLoaded,
                0,
                &[(false, 0), (false, 0)][..],
                "no worker was ready",
            ),
            (
                LeastLoaded,
                0,
                &[(false, 0), (true, 9)],
                "the only ready worker",
            ),
            (LeastLoaded, 0, &[(true, 4), (true, 3)], "smallest load 3"),
            (
                LeastLoaded,
                1,
                &[(true, 3), (true, 3)],
                "smallest load 3; tie with worker 0, which was served last",
            ),
            (
                LeastLoaded,
                0,
                &[(true, 3), (true, 3)],
                "smallest load 3; tie with worker 1, whose turn comes later",
            ),
            (
                LeastLoaded,
                3,
                &[(true, 3), (true, 3), (true, 3), (true, 3)],
                "smallest load 3; tie with workers 0, 1 and 2, of which 2 was served last",
            ),
            (
                LeastLoaded,
                2,
                &[(true, 3), (false, 1), (true, 9), (false, 2)],
                "smallest load 3; workers 1 and 3 had less but were not ready",
            ),
            (RoundRobin, 1, &[(true, 0), (true, 0)], "first in turn"),
            (
                RoundRobin,
                1,
                &[(true, 0), (false, 0), (true, 0)],
                "first in turn; worker 1 was before it but was not ready",
            ),
        ] {
            assert_eq!(words(policy, turn, states), text);
        }
    }

    #[test]
    fn a_heavier_worker_that_is_not_ready_is_named() {
        let all = [(true, 0); 5];
        let peer = "192.0.2.1".parse().expect("address");
        let picker = Picker::new(Policy::RemoteAddress, Prefixes::default());
        let heaviest = picker.explain(peer, &candidates(&all)).chosen;
        let heaviest = heaviest.expect("all are ready");
        let mut without = all;
        without[heaviest].0 = false;
        assert_eq!(
            words(Policy::RemoteAddress, 0, &without),
            format!(
                "largest weight for this address; worker {heaviest} had more but was not ready"
            )
        );
    }
}
