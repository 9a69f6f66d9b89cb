//! Looking after workers that may be stuck, and after connections that nobody takes.

use std::{
    io,
    sync::atomic::Ordering::{Acquire, Relaxed},
};

use super::{
    Report,
    hang::{LOOK, LOOK_AT_HUNG, Sight, Verdict},
    turn::Dispatcher,
    watch::{Spot, Which},
};
use crate::{
    dispatch::mode::Mode,
    scoreboard::count::add,
    sys::{
        clock::{activity, monotonic_ns},
        socket::waiting,
    },
};

/// How often all workers are looked at while there is traffic, nanoseconds.
pub(super) const LOOK_AT_ALL: u64 = 25_000_000;

/// Connections that wait where workers accept by themselves.
#[derive(Debug, Default)]
pub(super) struct Alert {
    /// Somebody came after a quiet time, and it is not known yet whether all are taken.
    pub(super) raised: bool,
    /// The shared listeners: since when somebody waits and nobody takes any, nanoseconds, and how many
    /// were taken then.
    shared: Option<(u64, u64)>,
}

impl Dispatcher {
    /// Looks at every worker, and at the queues if there is an alert. Orphans of those found stuck are
    /// left for the caller to place.
    pub(super) fn look(&mut self, now: u64) -> io::Result<()> {
        self.looked_at = now;
        let mut anybody_waits = false;
        if self.alert.raised && self.rules.arm.mode() == Mode::Reuseport {
            for lane in self.lanes.iter_mut().filter(|lane| !lane.is_hung()) {
                let own = |group: &crate::listener::ListenerGroup| {
                    group.own(lane.seat.place).map_or(Ok(0), waiting)
                };
                let mut queued = 0;
                for group in self.groups.iter().flatten() {
                    queued += own(group)?;
                }
                anybody_waits |= queued > 0;
                let taken = lane.row.work.self_accepted.load(Relaxed);
                lane.queued_since = match lane.queued_since {
                    _ if queued == 0 => None,
                    Some((since, before)) if before == taken => Some((since, taken)),
                    _ => Some((now, taken)),
                };
            }
        }
        for i in 0..self.lanes.len() {
            self.examine(i, now);
        }
        if self.alert.raised {
            anybody_waits |= self.look_after_shared(now)?;
            if !anybody_waits {
                self.alert = Alert::default();
                self.lanes
                    .iter_mut()
                    .for_each(|lane| lane.queued_since = None);
                self.observe_again()?;
            }
        }
        Ok(())
    }

    /// An observed listener has gone off: somebody came.
    pub(super) fn somebody_came(&mut self, now: u64) {
        if self.alert.raised {
            return;
        }
        self.alert.raised = true;
        self.alert.shared = Some((now, self.taken()));
        for lane in &mut self.lanes {
            lane.queued_since = Some((now, lane.row.work.self_accepted.load(Relaxed)));
        }
    }

    /// Connections accepted by anybody so far, this thread included.
    fn taken(&self) -> u64 {
        let theirs: u64 = self
            .lanes
            .iter()
            .map(|lane| lane.row.work.self_accepted.load(Relaxed))
            .sum();
        theirs + self.accepted
    }

    /// Somebody waits at a shared listener and nobody takes any: the worker that the kernel woke is
    /// stuck, or died. Takes them itself. Does anybody wait?
    fn look_after_shared(&mut self, now: u64) -> io::Result<bool> {
        if !matches!(self.rules.arm.mode(), Mode::Shared | Mode::Hybrid) {
            return Ok(false);
        }
        let mut queued = 0;
        for group in self.groups.iter().flatten() {
            queued += waiting(group.shared())?;
        }
        let taken = self.taken();
        self.alert.shared = match self.alert.shared {
            _ if queued == 0 => None,
            Some((since, before)) if before == taken => Some((since, taken)),
            _ => Some((now, taken)),
        };
        if let Some((since, _)) = self.alert.shared
            && now.saturating_sub(since) >= self.rules.hang.after.as_nanos() as u64
        {
            self.take_over_shared()?;
        }
        Ok(queued > 0)
    }

    /// Accepts what waits at the shared listeners, whoever else might.
    pub(super) fn take_over_shared(&mut self) -> io::Result<()> {
        self.refresh(monotonic_ns());
        for group in 0..self.groups.len() {
            self.accept_from(Spot {
                group,
                which: Which::Shared,
            })?;
        }
        Ok(())
    }

    /// Looks at one worker, and acts on a change of verdict.
    fn examine(&mut self, i: usize, now: u64) {
        let lane = &mut self.lanes[i];
        let (row, work) = (lane.row.index(), &lane.row.work);
        let thread = work.loop_thread.load(Relaxed) as i32;
        let pid = lane.row.birth.pid.load(Relaxed) as i32;
        let parked = work.parked.load(Acquire) == 1;
        let queued = lane.queued_since.map(|(since, _)| since);
        let owing_since = match (lane.unclaimed_since(), queued) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let sight = Sight {
            now,
            moved: work.loop_entered.load(Relaxed),
            parked,
            owing_since,
        };
        let before = lane.vigil.verdict();
        let verdict = lane.vigil.look(sight, || activity(pid, thread));
        match (before, verdict) {
            (Verdict::Hung(_), Verdict::Hung(since)) => {
                let overdue = now.saturating_sub(since) >= self.rules.hang.kill.as_nanos() as u64;
                if overdue && !lane.overdue {
                    lane.overdue = true;
                    self.report(Report::Overdue { row });
                }
            }
            (_, Verdict::Hung(_)) => {
                add(&lane.row.dispatched.hung, 1);
                lane.queued_since = None;
                let back = lane.take_back();
                self.orphans.extend(back);
                self.version += 1;
                self.report(Report::Hung { row });
                if self.rules.arm.mode() == Mode::Shared {
                    // A connection for which the kernel woke this worker alone.
                    let _ = self.take_over_shared();
                }
            }
            (Verdict::Hung(_), _) => {
                lane.overdue = false;
                self.version += 1;
                self.report(Report::Moves { row });
            }
            _ => {}
        }
    }

    fn report(&self, report: Report) {
        // Nobody hears it any more when the master is about to end.
        let _ = self.reports.send(report);
    }

    /// When workers or queues must be looked at again, nanoseconds from now; `None`: when something
    /// happens.
    pub(super) fn next_look(&self) -> Option<u64> {
        let nanos = |time: std::time::Duration| time.as_nanos() as u64;
        let lanes = self
            .lanes
            .iter()
            .filter_map(|lane| match lane.vigil.verdict() {
                Verdict::Well => None,
                Verdict::Suspect => Some(nanos(LOOK)),
                Verdict::Hung(_) => Some(nanos(LOOK_AT_HUNG)),
            });
        let alert = self.alert.raised.then_some(LOOK_AT_ALL);
        lanes.chain(alert).min()
    }

    /// Does any worker hold a connection, so that it would matter if it were stuck?
    pub(super) fn anything_open(&self) -> bool {
        self.lanes.iter().any(|lane| lane.row.open() > 0)
    }
}
