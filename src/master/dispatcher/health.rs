//! Looking after workers that may be stuck, and after connections that nobody takes.

use std::{
    io,
    sync::atomic::Ordering::{Acquire, Relaxed},
};

use super::{
    Report,
    hang::{LOOK, LOOK_AT_HUNG, Sight, Verdict},
    lane::Lane,
    turn::Dispatcher,
    watch::{Spot, Which},
};
use crate::{
    dispatch::mode::Mode,
    listener::Groups,
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
    /// Where somebody came after a quiet time, and it is not known yet whether all are taken. Nobody waits
    /// at any other observed listener: it would have gone off.
    pub(super) at: Vec<Spot>,
    /// The shared listeners: since when somebody waits and nobody takes any, nanoseconds, and how many
    /// were taken then.
    shared: Option<(u64, u64)>,
}

impl Alert {
    fn is_raised(&self) -> bool {
        !self.at.is_empty()
    }
}

/// Since when connections wait and nobody takes any, and how many were taken then: what it is at `now`
/// that `taken` are, if it was `before` at the look before.
fn untaken(before: Option<(u64, u64)>, now: u64, taken: u64) -> (u64, u64) {
    before
        .filter(|(_, then)| *then == taken)
        .unwrap_or((now, taken))
}

/// How many connections wait at those listeners of `spots` that are `meant`.
fn queued_at(spots: &[Spot], groups: &Groups, meant: impl Fn(&Spot) -> bool) -> io::Result<u32> {
    let listeners = spots.iter().filter(|spot| meant(spot));
    listeners
        .filter_map(|spot| spot.listener(groups))
        .map(waiting)
        .sum()
}

impl Dispatcher {
    /// Looks at every worker, and at the queues if there is an alert. Orphans of those found stuck are
    /// left for the caller to place.
    pub(super) fn look(&mut self, now: u64) -> io::Result<()> {
        self.looked_at = now;
        let mut anybody_waits = false;
        let own = self.rules.arm.mode() == Mode::Reuseport;
        if self.alert.is_raised() && own {
            for lane in self.lanes.iter_mut().filter(|lane| !lane.is_hung()) {
                let which = Which::Own(lane.seat.place);
                let queued = queued_at(&self.alert.at, &self.groups, |spot| spot.which == which)?;
                anybody_waits |= queued > 0;
                let taken = lane.row.work.self_accepted.load(Relaxed);
                lane.queued_since = (queued > 0).then(|| untaken(lane.queued_since, now, taken));
            }
        }
        if self.alert.is_raised() && !own {
            anybody_waits = queued_at(&self.alert.at, &self.groups, |_| true)? > 0;
        }
        let over = self.alert.is_raised() && !anybody_waits;
        if over {
            // Before anybody is examined for what he no longer owes.
            self.observe_again()?;
            self.calm();
        }
        for i in 0..self.lanes.len() {
            self.examine(i, now);
        }
        if own {
            self.take_over_own(now)?;
        } else if anybody_waits {
            self.look_after_shared(now)?;
        }
        Ok(())
    }

    /// An observed listener has gone off: somebody came.
    pub(super) fn somebody_came(&mut self, spot: Spot, now: u64) {
        let known = self.alert.is_raised();
        if !self.alert.at.contains(&spot) {
            self.alert.at.push(spot);
        }
        if known {
            return;
        }
        self.alert.shared = Some((now, self.taken()));
        for lane in &mut self.lanes {
            lane.queued_since = Some((now, lane.row.work.self_accepted.load(Relaxed)));
        }
    }

    /// There is no alert any more, and nobody owes anything because of it.
    pub(super) fn calm(&mut self) {
        self.alert = Alert::default();
        self.lanes
            .iter_mut()
            .for_each(|lane| lane.queued_since = None);
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

    /// Somebody waits at a shared listener. If nobody takes any, the worker that the kernel woke is stuck,
    /// or died: takes them itself.
    fn look_after_shared(&mut self, now: u64) -> io::Result<()> {
        let (since, taken) = untaken(self.alert.shared, now, self.taken());
        self.alert.shared = Some((since, taken));
        if now.saturating_sub(since) >= self.rules.hang.after.as_nanos() as u64 {
            self.take_over_shared()?;
        }
        Ok(())
    }

    /// Accepts what waits too long in the own listener of a worker that is not stuck: it may have no
    /// descriptor left. Later than a stuck one would be found out, whose queue is taken over for good.
    fn take_over_own(&mut self, now: u64) -> io::Result<()> {
        let limit = 2 * self.rules.hang.after.as_nanos() as u64;
        let waits = |since: u64| now.saturating_sub(since) >= limit;
        let late = |lane: &&Lane| lane.queued_since.is_some_and(|(since, _)| waits(since));
        let places: Vec<usize> = self
            .lanes
            .iter()
            .filter(late)
            .map(|l| l.seat.place)
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        self.refresh(monotonic_ns());
        for place in places {
            for group in 0..self.groups.len() {
                self.accept_from(Spot {
                    group,
                    which: Which::Own(place),
                })?;
            }
        }
        Ok(())
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
        let alert = self.alert.is_raised().then_some(LOOK_AT_ALL);
        lanes.chain(alert).min()
    }

    /// Does any worker hold a connection, so that it would matter if it were stuck?
    pub(super) fn anything_open(&self) -> bool {
        self.lanes.iter().any(|lane| lane.row.open() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::{
        channel::handover_line,
        config::HangLimits,
        dispatch::{
            mode::Arm,
            policy::{Policy, Prefixes},
        },
        listener::ListenerGroup,
        master::dispatcher::{Recruit, Rules, hang::Verdict, lane::Lane},
        scoreboard::Scoreboard,
        status::Seat,
    };

    const SOME_TIME: u64 = 1_000_000_000;

    fn rules(mode: Mode, policy: Option<Policy>) -> Rules {
        Rules {
            arm: Arm::new(mode, policy).expect("valid"),
            prefixes: Prefixes::default(),
            signal: Default::default(),
            hang: HangLimits::default(),
            shadow: true,
            sorter: None,
            paused: false,
        }
    }

    /// A dispatcher with one worker that waits for something to do, and one listener.
    fn dispatcher(mode: Mode) -> Dispatcher {
        let group = ListenerGroup::bind("127.0.0.1:0".parse().expect("address"), 1).expect("bind");
        let board = Scoreboard::create().expect("scoreboard");
        let row = board.occupy(0, 1).expect("row");
        row.work.parked.store(1, Relaxed);
        let (_commands, inbox) = mpsc::channel();
        let (reports, _) = tokio::sync::mpsc::unbounded_channel();
        let mut dispatcher = Dispatcher::new(
            Arc::from([Some(Arc::new(group))]),
            board,
            rules(mode, None),
            inbox,
            Arc::new(EventFd::new().expect("eventfd")),
            reports,
        )
        .expect("epoll");
        let recruit = Recruit {
            seat: Seat {
                number: 0,
                place: 0,
            },
            row,
            outlet: handover_line().expect("line").0,
            next: 1,
        };
        let lane = Lane::new(recruit, Duration::from_millis(50));
        dispatcher.lanes.push(lane);
        dispatcher
    }

    fn came(dispatcher: &mut Dispatcher, which: Which) {
        dispatcher.somebody_came(Spot { group: 0, which }, SOME_TIME);
        assert!(dispatcher.next_look().is_some());
    }

    #[test]
    fn who_was_taken_at_once_makes_nobody_suspect() {
        for (mode, which) in [
            (Mode::Shared, Which::SharedAgain),
            (Mode::Hybrid, Which::SharedAgain),
            (Mode::Reuseport, Which::Own(0)),
        ] {
            let policy = (mode == Mode::Hybrid).then(Policy::default);
            let mut dispatcher = dispatcher(Mode::Shared);
            dispatcher.go_by(rules(mode, policy));
            came(&mut dispatcher, which);
            dispatcher.look(SOME_TIME + LOOK_AT_ALL).expect("looked");
            let verdict = dispatcher.lanes[0].vigil.verdict();
            assert_eq!(verdict, Verdict::Well, "{mode:?}");
            assert_eq!(dispatcher.next_look(), None, "{mode:?}");
        }
    }

    #[test]
    fn after_a_switch_nobody_owes_what_an_earlier_mode_had_asked_of_him() {
        for (mode, which) in [
            (Mode::Shared, Which::SharedAgain),
            (Mode::Reuseport, Which::Own(0)),
        ] {
            let mut dispatcher = dispatcher(mode);
            came(&mut dispatcher, which);
            dispatcher.go_by(rules(Mode::Handoff, Some(Policy::default())));
            dispatcher.look(SOME_TIME + 1_000_000_000).expect("looked");
            assert_eq!(dispatcher.next_look(), None, "{mode:?}");
        }
    }
}
