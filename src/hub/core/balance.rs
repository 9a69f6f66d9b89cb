//! Which of those that host an application gets a message.

use super::{Loads, hash::FastMap, roster::Roster};
use crate::{
    bus::{Balance, MasterId, ProcessId},
    random::Random,
};

/// Applications that are remembered; beyond, all are forgotten: they are found again.
const REMEMBERED: usize = 4_096;

/// Who hosts what, as far as somebody has asked, and whose turn it is.
#[derive(Debug)]
pub(super) struct Hosts {
    me: MasterId,
    found: FastMap<Box<str>, Candidates>,
    turns: FastMap<Box<str>, usize>,
    random: Random,
}

#[derive(Debug, Default)]
struct Candidates {
    own: Vec<ProcessId>,
    afar: Vec<ProcessId>,
}

/// The application that a message is for: what is before the slash.
pub(super) fn application_of(name: &str) -> &str {
    name.split_once('/')
        .map_or(name, |(application, _)| application)
}

impl Hosts {
    pub(super) fn new(me: MasterId) -> Self {
        Self {
            me,
            found: FastMap::default(),
            turns: FastMap::default(),
            random: Random::new(me.0),
        }
    }

    /// Somebody has come, changed or gone.
    pub(super) fn forget(&mut self) {
        self.found.clear();
    }

    /// Who gets a message for `application` from `sender`: itself, or one of this master's that turn, or
    /// one elsewhere, or one that has stopped turning.
    pub(super) fn pick(
        &mut self,
        application: &str,
        sender: ProcessId,
        balance: Balance,
        roster: &Roster,
        loads: &dyn Loads,
    ) -> Option<ProcessId> {
        if !self.found.contains_key(application) {
            self.find(application, roster)?;
        }
        let candidates = &self.found[application];
        if candidates.own.contains(&sender) {
            return Some(sender);
        }
        if self.turns.len() > REMEMBERED {
            self.turns.clear();
        }
        let turn = match self.turns.get_mut(application) {
            Some(turn) => turn,
            None => self.turns.entry(application.into()).or_default(),
        };
        *turn = turn.wrapping_add(1);
        let turning: Vec<ProcessId> = {
            let all = candidates.own.iter().copied();
            all.filter(|one| !loads.is_stuck(one.number)).collect()
        };
        let circle = [&turning, &candidates.afar, &candidates.own]
            .into_iter()
            .find(|all| !all.is_empty())?;
        let first = match balance {
            Balance::Random => self.random.below(circle.len()),
            Balance::RoundRobin | Balance::LeastLoaded => *turn % circle.len(),
        };
        if balance != Balance::LeastLoaded {
            return Some(circle[first]);
        }
        let load = |one: ProcessId| match one.master == self.me {
            true => loads.load(one.number),
            false => roster.peer(one).map_or(0, |peer| peer.load),
        };
        let (before, after) = circle.split_at(first);
        after
            .iter()
            .chain(before)
            .copied()
            .min_by_key(|one| load(*one))
    }

    fn find(&mut self, application: &str, roster: &Roster) -> Option<()> {
        let mut candidates = Candidates::default();
        for peer in roster.peers() {
            if peer.applications.contains_key(application) {
                match peer.id.master == self.me {
                    true => candidates.own.push(peer.id),
                    false => candidates.afar.push(peer.id),
                }
            }
        }
        if candidates.own.is_empty() && candidates.afar.is_empty() {
            return None;
        }
        if self.found.len() >= REMEMBERED {
            self.found.clear();
        }
        self.found.insert(application.into(), candidates);
        Some(())
    }
}
