//! Shadow policies in the dispatcher: asked about every connection that it picks a worker for.
//!
//! Only in mode `handoff`. Elsewhere workers accept connections that this thread never sees, and what
//! came out would be the skew of a part of the traffic, shown as if it were all of it.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

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
    shadows: Shadows,
    /// What `shadows.loads` was made from.
    loads: ShadowLoads,
    prefixes: Prefixes,
    /// The rule in force; `None`: no shadow is kept.
    in_force: Option<Shadow>,
    /// The version of the lanes for which all was counted; `None`: it must be counted anew.
    counted_for: Option<u64>,
    /// When it was last looked what has closed, monotonic nanoseconds.
    looked_at: u64,
}

impl Shade {
    pub(super) fn new(rules: &Rules, board: &Scoreboard) -> Self {
        let mut shade = Self {
            shadows: Shadows::new(rules.prefixes),
            loads: ShadowLoads::new(Shadow::LeastLoaded),
            prefixes: rules.prefixes,
            in_force: None,
            counted_for: None,
            looked_at: 0,
        };
        shade.go_by(rules, board);
        shade
    }

    /// From now on these rules are in force. Whoever shows the shadows hears whether there are any.
    pub(super) fn go_by(&mut self, rules: &Rules, board: &Scoreboard) {
        if rules.prefixes != self.prefixes {
            self.shadows = Shadows::new(rules.prefixes);
            self.prefixes = rules.prefixes;
        }
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
    /// of them gets stuck or moves again.
    pub(super) fn refresh(&mut self, lanes: &[Lane], version: u64, now: u64) {
        let Some(in_force) = self.in_force else {
            return;
        };
        let rows = lanes
            .iter()
            .map(|lane| -> (u16, &Row) { (lane.seat.number, &lane.row) });
        if self.counted_for != Some(version) {
            let places = lanes
                .iter()
                .map(|lane| (!lane.is_hung()).then_some(lane.seat.place));
            self.shadows.set_candidates(places);
            self.loads.count(rows, &mut self.shadows.loads);
            self.counted_for = Some(version);
            self.looked_at = now;
        } else if in_force != Shadow::LeastLoaded && now.saturating_sub(self.looked_at) >= LOOK {
            // The policy itself has better to go by than its shadow.
            self.loads.update(rows, &mut self.shadows.loads);
            self.looked_at = now;
        }
    }

    /// What every rule picks; `picked` is what the policy in force has.
    #[inline]
    pub(super) fn pick(
        &mut self,
        peer: SocketAddr,
        candidates: &[Candidate],
        picked: usize,
    ) -> Picks {
        match self.in_force {
            Some(rule) => self.shadows.pick(peer, candidates, Some((rule, picked))),
            None => Picks::NONE,
        }
    }
}
