//! Shadow policies in the dispatcher: asked about every connection that it picks a worker for.
//!
//! Only in mode `handoff`. Elsewhere workers accept connections that this thread never sees, and what
//! came out would be the skew of a part of the traffic, shown as if it were all of it.
//!
//! Worker groups would be there under every policy, so each has shadows of its own, among its workers.
//! Not the kernel's hash, though: it knows nothing of groups.

use std::{net::SocketAddr, ops::Range, sync::atomic::Ordering::Relaxed};

use super::{Rules, lane::Lane};
use crate::{
    dispatch::{
        mode::Mode,
        policy::{Candidate, Prefixes},
        shadow::{Picks, Shadow, Shadows},
    },
    scoreboard::{Row, Scoreboard, shadow::ShadowLoads},
};

/// How often it is looked what has closed, nanoseconds. What was picked since is known without looking.
const LOOK: u64 = 1_000_000;

pub(super) struct Shade {
    /// By worker group.
    groups: Vec<Group>,
    prefixes: Prefixes,
    /// Are there worker groups besides the rest?
    grouped: bool,
    /// The rule in force; `None`: no shadow is kept.
    in_force: Option<Shadow>,
    /// The version of the lanes for which all was counted; `None`: it must be counted anew.
    counted_for: Option<u64>,
    /// When it was last looked what has closed, monotonic nanoseconds.
    looked_at: u64,
}

/// The shadows of one worker group.
struct Group {
    shadows: Shadows,
    /// What `shadows.loads` was made from.
    loads: ShadowLoads,
}

impl Group {
    fn new(prefixes: Prefixes) -> Self {
        Self {
            shadows: Shadows::new(prefixes),
            loads: ShadowLoads::new(Shadow::LeastLoaded),
        }
    }
}

impl Shade {
    pub(super) fn new(rules: &Rules, board: &Scoreboard) -> Self {
        let mut shade = Self {
            groups: Vec::new(),
            prefixes: rules.prefixes,
            grouped: false,
            in_force: None,
            counted_for: None,
            looked_at: 0,
        };
        shade.go_by(rules, board);
        shade
    }

    /// From now on these rules are in force. Whoever shows the shadows hears whether there are any.
    pub(super) fn go_by(&mut self, rules: &Rules, board: &Scoreboard) {
        let groups = rules.sorter.as_ref().map_or(1, |sorter| sorter.groups());
        if rules.prefixes != self.prefixes || groups != self.groups.len() {
            self.groups = (0..groups).map(|_| Group::new(rules.prefixes)).collect();
            self.prefixes = rules.prefixes;
        }
        self.grouped = rules.sorter.is_some();
        let keeps = rules.shadow && rules.arm.mode() == Mode::Handoff;
        let policy = rules.arm.policy().filter(|_| keeps);
        self.in_force = policy.map(Shadow::of);
        board.dispatcher().shadows.store(keeps.into(), Relaxed);
        self.recount();
    }

    /// Connections were taken back: what was counted for them counts no more.
    pub(super) fn recount(&mut self) {
        self.counted_for = None;
    }

    /// Brings the loads up to date, at the start of a turn. `version` changes whenever `lanes` do, or one
    /// of them gets stuck or moves again; `among` says which lanes are in each group.
    pub(super) fn refresh(
        &mut self,
        lanes: &[Lane],
        among: &[Range<usize>],
        version: u64,
        now: u64,
    ) {
        let Some(in_force) = self.in_force else {
            return;
        };
        let anew = self.counted_for != Some(version);
        // The policy itself has better to go by than its shadow.
        let due = in_force != Shadow::LeastLoaded && now.saturating_sub(self.looked_at) >= LOOK;
        if !anew && !due {
            return;
        }
        let hashed = |lane: &Lane| !self.grouped && !lane.is_hung();
        for (group, among) in self.groups.iter_mut().zip(among) {
            let lanes = &lanes[among.clone()];
            let rows = lanes
                .iter()
                .map(|lane| -> (u16, &Row) { (lane.seat.number, &lane.row) });
            if anew {
                let places = lanes
                    .iter()
                    .map(|lane| hashed(lane).then_some(lane.seat.place));
                group.shadows.set_candidates(places);
                group.loads.count(rows, &mut group.shadows.loads);
            } else {
                group.loads.update(rows, &mut group.shadows.loads);
            }
        }
        self.counted_for = Some(version);
        self.looked_at = now;
    }

    /// What every rule picks among the workers of a group; `picked` is what the policy in force has.
    #[inline]
    pub(super) fn pick(
        &mut self,
        group: usize,
        peer: SocketAddr,
        candidates: &[Candidate],
        picked: usize,
    ) -> Picks {
        match self.in_force {
            Some(rule) => {
                let shadows = &mut self.groups[group].shadows;
                shadows.pick(peer, candidates, Some((rule, picked)))
            }
            None => Picks::NONE,
        }
    }
}
