//! Is a worker stuck, or only busy? Pure: what was seen goes in, a verdict comes out.
//!
//! A worker that owes something and shows no sign of life is *suspect* and passed over. That alone says
//! little: beside a process that hogs the core a healthy worker waits its turn for tens of
//! milliseconds. So from then on only time counts in which it *could* have moved: on a core (an
//! endless loop), stopped, or waiting for something other than its loop (a blocking call). Time in
//! which it waited for a core is nobody's fault. When enough has come together it is *hung*, until it
//! moves again.

use std::time::Duration;

use crate::sys::clock::{Activity, Doing};

/// How often a suspect is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How often a hung worker is looked at.
pub(super) const LOOK_AT_HUNG: Duration = Duration::from_millis(10);

/// What is seen of a worker at one look. Times are monotonic nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    pub(super) now: u64,
    /// Its last sign of life.
    pub(super) moved: u64,
    /// Does its loop wait for something to do?
    pub(super) parked: bool,
    /// Since when something sent to it, or queued where only it accepts, has not been taken.
    pub(super) owing_since: Option<u64>,
}

impl Sight {
    /// Since when it should have moved and has not.
    fn stuck_since(&self) -> Option<u64> {
        if !self.parked {
            return Some(self.moved);
        }
        self.owing_since.map(|since| since.max(self.moved))
    }
}

/// What to think of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does what it should.
    Well,
    /// It may be stuck: others go first.
    Suspect,
    /// It is stuck since then, monotonic nanoseconds: it gets nothing.
    Hung(u64),
}

/// One worker under observation.
#[derive(Debug)]
pub(super) struct Vigil {
    after: u64,
    verdict: Verdict,
    /// The sign of life before which everything counts.
    moved: u64,
    /// The last look while suspect.
    looked: u64,
    /// For how long the thread had run then.
    ran: Option<u64>,
    /// Time in which it could have moved, since it became suspect.
    idle: u64,
}

impl Vigil {
    /// Hung is who could have moved and has not for `after`.
    pub(super) fn new(after: Duration) -> Self {
        Self {
            after: after.as_nanos() as u64,
            verdict: Verdict::Well,
            moved: 0,
            looked: 0,
            ran: None,
            idle: 0,
        }
    }

    /// From now on hung is who could have moved and has not for `after`. Who was found hung stays so until
    /// it moves: nobody would hear otherwise that it is well again.
    pub(super) fn judge_by(&mut self, after: Duration) {
        self.after = nanos(after);
    }

    /// How long a connection may stay unclaimed before its worker counts as slow, nanoseconds: a fifth of
    /// what makes it hung.
    #[inline]
    pub(super) fn patience(&self) -> u64 {
        self.after / 5
    }

    /// The verdict of the last look.
    #[inline]
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Looks, and looks closer (`activity`) only if there is reason to.
    pub(super) fn look(
        &mut self,
        sight: Sight,
        activity: impl FnOnce() -> Option<Activity>,
    ) -> Verdict {
        let stuck_for = sight
            .stuck_since()
            .map_or(0, |since| sight.now.saturating_sub(since));
        self.verdict = match self.verdict {
            Verdict::Hung(since) => {
                let back = sight.moved != self.moved
                    // It had nothing to do when it was stopped, and owes nothing now.
                    || sight.parked
                        && sight.owing_since.is_none()
                        && activity().is_some_and(|a| a.doing != Doing::Stopped);
                if back {
                    Verdict::Well
                } else {
                    Verdict::Hung(since)
                }
            }
            // Half the time to begin with: the other half is for looking closer.
            _ if stuck_for < self.after / 2 => Verdict::Well,
            Verdict::Suspect if sight.moved == self.moved => {
                self.weigh(&sight, activity());
                if stuck_for >= self.after && self.idle >= self.enough() {
                    Verdict::Hung(sight.now - stuck_for)
                } else {
                    Verdict::Suspect
                }
            }
            _ => {
                self.moved = sight.moved;
                self.looked = sight.now;
                self.ran = activity().map(|a| a.ran_ns);
                self.idle = 0;
                Verdict::Suspect
            }
        };
        self.verdict
    }

    /// How much idle time makes a suspect a hung worker: half the limit, as looks see it. With a limit of
    /// a few looks some is still needed, or whoever waits for a core would be hung.
    fn enough(&self) -> u64 {
        let half = self.after / 2;
        half.saturating_sub(nanos(LOOK)).max(half / 2)
    }

    /// Adds the time since the last look in which the worker could have moved.
    fn weigh(&mut self, sight: &Sight, activity: Option<Activity>) {
        // If we come late to look, the whole machine is slow: what we missed is not held against it.
        let passed = sight.now.saturating_sub(self.looked).min(2 * nanos(LOOK));
        self.looked = sight.now;
        let Some(activity) = activity else {
            // It is gone: its death will be reported.
            return;
        };
        let before = self.ran.replace(activity.ran_ns);
        self.idle += match activity.doing {
            Doing::Stopped => passed,
            Doing::Waiting if sight.parked => 0,
            Doing::Waiting => passed,
            Doing::Running => before
                .map_or(0, |before| activity.ran_ns.saturating_sub(before))
                .min(passed),
        };
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const AFTER: Duration = Duration::from_millis(50);

    /// Looks every 5 ms for `ms` milliseconds at a worker that last moved at 0; the verdicts.
    fn watch(
        ms: u64,
        parked: bool,
        owing: bool,
        activity: impl Fn(u64) -> Activity,
    ) -> (Vigil, Vec<Verdict>) {
        let mut vigil = Vigil::new(AFTER);
        let verdicts = (0..=ms / 5)
            .map(|i| {
                let now = i * 5 * MS;
                let sight = Sight {
                    now,
                    moved: 0,
                    parked,
                    owing_since: owing.then_some(0),
                };
                vigil.look(sight, || Some(activity(now)))
            })
            .collect();
        (vigil, verdicts)
    }

    fn hung_at(verdicts: &[Verdict]) -> Option<u64> {
        verdicts
            .iter()
            .position(|v| matches!(v, Verdict::Hung(_)))
            .map(|i| i as u64 * 5)
    }

    fn doing(doing: Doing, ran_ns: u64) -> Activity {
        Activity { doing, ran_ns }
    }

    #[test]
    fn an_endless_loop_a_stop_and_a_blocking_call_are_hung_after_50_ms() {
        let (_, endless) = watch(100, false, false, |now| doing(Doing::Running, now));
        let (_, stopped) = watch(100, true, true, |_| doing(Doing::Stopped, 0));
        let (_, blocked) = watch(100, false, false, |_| doing(Doing::Waiting, 0));
        for verdicts in [endless, stopped, blocked] {
            assert_eq!(hung_at(&verdicts), Some(50), "{verdicts:?}");
            assert_eq!(verdicts[4], Verdict::Well, "20 ms");
            assert_eq!(verdicts[5], Verdict::Suspect, "25 ms");
        }
    }

    #[test]
    fn a_worker_that_waits_for_a_core_is_never_hung() {
        let (_, starved) = watch(10_000, false, true, |_| doing(Doing::Running, 0));
        assert_eq!(hung_at(&starved), None);
        assert_eq!(starved.last(), Some(&Verdict::Suspect), "others go first");
    }

    #[test]
    fn nor_is_it_with_the_shortest_limit() {
        let mut vigil = Vigil::new(Duration::from_millis(10));
        for now in (0..1000 * MS).step_by(5 * MS as usize) {
            let sight = Sight {
                now,
                moved: 0,
                parked: false,
                owing_since: Some(0),
            };
            let verdict = vigil.look(sight, || Some(doing(Doing::Running, 0)));
            assert!(!matches!(verdict, Verdict::Hung(_)), "at {now}");
        }
    }

    #[test]
    fn a_worker_that_shares_its_core_gets_twice_the_time() {
        let (_, half) = watch(200, false, false, |now| doing(Doing::Running, now / 2));
        assert!(
            hung_at(&half).is_some_and(|ms| (60..=75).contains(&ms)),
            "{half:?}"
        );
    }

    #[test]
    fn an_idle_worker_that_owes_nothing_is_well_and_so_is_one_that_moves() {
        let (_, idle) = watch(1000, true, false, |_| doing(Doing::Waiting, 0));
        assert!(idle.iter().all(|v| *v == Verdict::Well));
        let mut vigil = Vigil::new(AFTER);
        for now in (0..1000 * MS).step_by(5 * MS as usize) {
            let sight = Sight {
                now,
                moved: now / (40 * MS) * (40 * MS),
                parked: false,
                owing_since: Some(0),
            };
            let verdict = vigil.look(sight, || Some(doing(Doing::Running, now)));
            assert!(!matches!(verdict, Verdict::Hung(_)), "at {now}");
        }
    }

    #[test]
    fn looks_that_come_late_are_not_held_against_the_worker() {
        let mut vigil = Vigil::new(AFTER);
        for now in [0, 30 * MS, 1000 * MS] {
            let sight = Sight {
                now,
                moved: 0,
                parked: false,
                owing_since: None,
            };
            let verdict = vigil.look(sight, || Some(doing(Doing::Waiting, 0)));
            assert!(!matches!(verdict, Verdict::Hung(_)), "at {now}");
        }
    }

    #[test]
    fn a_hung_worker_returns_when_it_moves_or_when_it_is_continued_with_nothing_to_do() {
        let (mut looping, _) = watch(100, false, false, |now| doing(Doing::Running, now));
        let mut sight = Sight {
            now: 105 * MS,
            moved: 0,
            parked: false,
            owing_since: None,
        };
        let hung = looping.look(sight, || Some(doing(Doing::Running, 0)));
        assert_eq!(hung, Verdict::Hung(0), "since it last moved");
        looping.judge_by(2 * AFTER);
        assert_eq!(looping.verdict(), hung, "another limit acquits nobody");
        sight.moved = 104 * MS;
        assert_eq!(looping.look(sight, || None), Verdict::Well);

        let (mut stopped, _) = watch(100, true, true, |_| doing(Doing::Stopped, 0));
        let mut sight = Sight {
            now: 105 * MS,
            moved: 0,
            parked: true,
            owing_since: None,
        };
        assert!(matches!(
            stopped.look(sight, || Some(doing(Doing::Stopped, 0))),
            Verdict::Hung(_)
        ));
        sight.now += 10 * MS;
        assert_eq!(
            stopped.look(sight, || Some(doing(Doing::Waiting, 0))),
            Verdict::Well
        );
    }
}
