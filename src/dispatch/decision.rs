//! The dispatcher's last decisions: what each was made from, so that it can be explained when somebody
//! asks. Nothing is computed for it when a connection comes; policies are pure, and say the same again.

use std::{net::SocketAddr, sync::Arc};

use super::{
    load::LoadSignal,
    mode::Arm,
    pins::{Pin, Sorter},
    policy::{Candidate, Explanation, Picker, Policy, Prefixes},
    shadow::Picks,
};

/// How many are kept.
pub const KEPT: usize = 256;

/// What a decision was made from, and what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When the connection was accepted, monotonic nanoseconds.
    pub at: u64,
    /// The client.
    pub peer: SocketAddr,
    /// Which of the configured listeners it came in by.
    pub listener: u8,
    /// The arm in force. Where its mode takes no policy, the master took over a connection that nobody
    /// else would have accepted, and gave it to a worker by the usual policy.
    pub arm: Arm,
    /// How much of an address `remote-address` looked at.
    pub prefixes: Prefixes,
    /// What `least-loaded` went by.
    pub signal: LoadSignal,
    /// A worker that had not claimed it had it before.
    pub again: bool,
    /// What the picker remembered, see [`Picker::turn`].
    pub turn: u16,
    /// The candidate that was picked, an index.
    pub chosen: usize,
    /// What the shadow policies would have picked.
    pub shadows: Picks,
    /// By what it was sorted into a worker group, the workers of which were its candidates; `None`: there
    /// was but one, all workers.
    pub sorter: Option<Arc<Sorter>>,
}

impl Decision {
    /// The policy that decided.
    pub fn policy(&self) -> Policy {
        self.arm.policy().unwrap_or_default()
    }

    /// What pinned the client to a worker group; `None`: nothing did.
    pub fn pin(&self) -> Option<&Pin> {
        self.sorter.as_ref()?.pin_of(self.peer.ip())
    }

    /// Why it came out as it did, from what it was made from.
    pub fn explain(&self, candidates: &[Candidate]) -> Explanation {
        Picker::at(self.policy(), self.prefixes, self.turn).explain(self.peer.ip(), candidates)
    }
}

/// A decision and its candidates.
pub type Recorded = (Decision, Vec<Candidate>);

/// The last [`KEPT`] decisions. Its memory is there from the beginning and used again and again: after
/// one round nothing is allocated for a connection.
#[derive(Debug)]
pub struct Decisions {
    /// The one at `next` is the oldest, once all are used.
    ring: Vec<Recorded>,
    next: usize,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            ring: Vec::with_capacity(KEPT),
            next: 0,
        }
    }
}

impl Decisions {
    /// Keeps one, in the place of the oldest.
    #[inline]
    pub fn record(&mut self, decision: Decision, candidates: &[Candidate]) {
        match self.ring.get_mut(self.next) {
            Some((kept, with)) => {
                *kept = decision;
                with.clear();
                with.extend_from_slice(candidates);
            }
            None => self.ring.push((decision, candidates.to_vec())),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// The last `n`, or as many as there are, the newest first.
    pub fn last(&self, n: usize) -> Vec<Recorded> {
        let (newer, older) = self.ring.split_at(self.next.min(self.ring.len()));
        let newest_first = newer.iter().rev().chain(older.iter().rev());
        newest_first.take(n).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(at: u64) -> Decision {
        Decision {
            at,
            peer: ([192, 0, 2, 1], 1).into(),
            listener: 0,
            arm: Arm::ALL[0],
            prefixes: Prefixes::default(),
            signal: LoadSignal::default(),
            again: false,
            turn: 0,
            chosen: 0,
            shadows: Picks::NONE,
            sorter: None,
        }
    }

    fn times(decisions: &Decisions, n: usize) -> Vec<u64> {
        decisions.last(n).iter().map(|(d, _)| d.at).collect()
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_are_forgotten() {
        let mut decisions = Decisions::default();
        assert!(decisions.last(10).is_empty());
        for at in 0..3 {
            decisions.record(decision(at), &[]);
        }
        assert_eq!(times(&decisions, 10), [2, 1, 0]);
        assert_eq!(times(&decisions, 2), [2, 1]);
        for at in 3..1000 {
            let load = at as u32;
            let candidates = [load; 3].map(|load| Candidate {
                seat: 0,
                ready: true,
                load,
            });
            decisions.record(decision(at), &candidates[..at as usize % 4 % 3 + 1]);
        }
        let kept = decisions.last(usize::MAX);
        assert_eq!(kept.len(), KEPT);
        for ((decision, candidates), at) in kept.iter().zip((0..1000).rev()) {
            assert_eq!(decision.at, at);
            assert_eq!(candidates.len(), at as usize % 4 % 3 + 1);
            assert!(candidates.iter().all(|c| u64::from(c.load) == at));
        }
    }
}
