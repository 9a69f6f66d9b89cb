//! Worker groups in the dispatcher: whom it may choose among for a connection, and what becomes of one
//! for which nobody of its group is ready.
//!
//! Such a connection waits, here, and holds up nobody else: it is only known where it belongs once it is
//! accepted. It goes to no other worker, for that is what was asked for: a group that clients have filled
//! or brought down must not have the others share its fate, nor the other way round. Where too many wait
//! already, a group's clients are turned away; for everybody else it is as without groups, they wait in
//! the kernel, and nothing is accepted.

use std::{net::IpAddr, ops::Range};

use super::{Rules, lane::Held, lane::Lane, turn::Dispatcher};
use crate::{
    dispatch::{
        pins::REST,
        policy::{Candidate, Picker},
    },
    scoreboard::count::add,
};

/// Connections of one group that may wait for a worker of it.
const MOST_WAITING: usize = 256;

/// By group: where there are none, all workers are one, the rest.
#[derive(Debug)]
pub(super) struct Shares {
    /// Each has turns of its own.
    pub(super) pickers: Vec<Picker>,
    /// Which candidates are in it.
    pub(super) among: Vec<Range<usize>>,
    /// How many connections wait for it.
    waiting: Vec<usize>,
}

impl Shares {
    pub(super) fn new(rules: &Rules) -> Self {
        let groups = rules.sorter.as_ref().map_or(1, |sorter| sorter.groups());
        let picker = Picker::new(rules.arm.policy().unwrap_or_default(), rules.prefixes);
        Self {
            pickers: vec![picker; groups],
            among: vec![0..0; groups],
            waiting: vec![0; groups],
        }
    }

    /// These are the candidates of this turn. Where in a group everybody is slow, slow is better than
    /// nobody: `has_room` says who could take one nevertheless.
    #[inline]
    pub(super) fn split(
        &mut self,
        rules: &Rules,
        candidates: &mut [Candidate],
        has_room: impl Fn(usize) -> bool,
    ) {
        match &rules.sorter {
            None => self.among[REST] = 0..candidates.len(),
            Some(sorter) => sorter.split(candidates, &mut self.among),
        }
        for among in &self.among {
            if !candidates[among.clone()].iter().any(|c| c.ready) {
                for i in among.clone() {
                    candidates[i].ready = has_room(i);
                }
            }
        }
    }
}

impl Rules {
    /// The group that a client is for.
    #[inline]
    fn group_of(&self, client: IpAddr) -> usize {
        match &self.sorter {
            None => REST,
            Some(sorter) => sorter.group_of(client),
        }
    }

    fn group_of_lane(&self, lane: &Lane) -> usize {
        match &self.sorter {
            None => REST,
            Some(sorter) => sorter.group_of_seat(lane.seat.number),
        }
    }
}

impl Dispatcher {
    /// The group that a client is for, and the candidates in it.
    #[inline]
    pub(super) fn share_of(&self, client: IpAddr) -> (usize, Range<usize>) {
        let group = self.rules.group_of(client);
        (group, self.shares.among[group].clone())
    }

    /// Gives what waits to whom it is for, in the order in which it came.
    pub(super) fn place_orphans(&mut self) {
        let grouped = self.rules.sorter.is_some();
        if grouped {
            self.shares.waiting.fill(0);
        }
        for _ in 0..self.orphans.len() {
            let Some(held) = self.orphans.pop_front() else {
                return;
            };
            let Err(held) = self.place(held) else {
                continue;
            };
            if !grouped {
                // Nobody is ready for the others either.
                self.orphans.push_front(held);
                return;
            }
            self.shares.waiting[held.group] += 1;
            // All are gone through, so their order stays.
            self.orphans.push_back(held);
        }
    }

    /// Nobody is ready for a connection that was just accepted.
    pub(super) fn let_wait(&mut self, held: Held) {
        let waiting = &mut self.shares.waiting[held.group];
        if held.group != REST && *waiting >= MOST_WAITING {
            add(&self.board.dispatcher().crowded_out, 1);
            return;
        }
        *waiting += 1;
        self.orphans.push_back(held);
    }

    /// Do so many wait that nothing more is to be accepted? Only where there are groups: without, nothing
    /// is accepted anyway while nobody is ready.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.rules.sorter.is_some() && self.shares.waiting[REST] >= MOST_WAITING
    }

    /// Could anything that waits be given to somebody?
    pub(super) fn could_place(&self) -> bool {
        self.waits_for(Lane::has_room)
    }

    /// Is all that waits for workers that are not there?
    pub(super) fn waits_in_vain(&self) -> bool {
        self.rules.sorter.is_some() && !self.waits_for(|_| true)
    }

    /// Is there a worker like this for anything that waits?
    fn waits_for(&self, like_this: impl Fn(&Lane) -> bool) -> bool {
        let wanted = self
            .orphans
            .iter()
            .fold(0_u128, |groups, held| groups | bit(held.group));
        wanted != 0
            && self
                .lanes
                .iter()
                .any(|lane| wanted & bit(self.rules.group_of_lane(lane)) != 0 && like_this(lane))
    }
}

/// There are fewer groups than workers, and of these no more than 128.
fn bit(group: usize) -> u128 {
    1_u128.checked_shl(group as u32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener},
        os::fd::OwnedFd,
        sync::{Arc, mpsc},
        time::Duration,
    };

    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::{
        channel::handover_line,
        conn::Accepted,
        dispatch::{
            mode::Arm,
            pins::{Pins, Sorter},
            shadow::Picks,
        },
        master::dispatcher::Recruit,
        scoreboard::Scoreboard,
        status::Seat,
        sys::clock::monotonic_ns,
    };

    const PINNED: [u8; 4] = [192, 0, 2, 1];
    const ANYBODY: [u8; 4] = [198, 51, 100, 1];

    /// A dispatcher with a group of one seat, to which `PINNED` is pinned, and a worker in each of `seats`.
    fn dispatcher(seats: &[u16]) -> Dispatcher {
        let pins = Pins {
            groups: vec!["special=1".parse().expect("a group")],
            rules: vec!["192.0.2.0/24=special".parse().expect("a pin")],
        };
        let rules = Rules {
            arm: Arm::ALL[0],
            prefixes: Default::default(),
            signal: Default::default(),
            hang: Default::default(),
            shadow: true,
            sorter: Sorter::new(&pins).map(Arc::new),
            paused: false,
        };
        let board = Scoreboard::create().expect("scoreboard");
        let (_commands, inbox) = mpsc::channel();
        let (reports, _) = tokio::sync::mpsc::unbounded_channel();
        let bell = Arc::new(EventFd::new().expect("eventfd"));
        let mut dispatcher =
            Dispatcher::new(Arc::from([]), board.clone(), rules, inbox, bell, reports)
                .expect("epoll");
        for seat in seats {
            let recruit = Recruit {
                seat: Seat::of_worker(*seat, false),
                row: board.occupy(*seat, 1).expect("row"),
                outlet: handover_line().expect("line").0,
                next: 1,
            };
            let lane = Lane::new(recruit, Duration::from_millis(50));
            dispatcher.lanes.push(lane);
        }
        dispatcher.refresh(monotonic_ns());
        dispatcher
    }

    fn held(client: [u8; 4]) -> Held {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        Held::new(Accepted {
            socket: OwnedFd::from(listener),
            peer: SocketAddr::from((client, 1000)),
            listener: 0,
            arm: Arm::ALL[0],
            shadows: Picks::NONE,
            accepted_at: 0,
        })
    }

    fn waiting(dispatcher: &Dispatcher) -> Vec<SocketAddr> {
        dispatcher
            .orphans
            .iter()
            .map(|held| held.conn.peer)
            .collect()
    }

    #[test]
    fn who_waits_for_a_group_holds_up_nobody_of_another() {
        for (seat, served, waits) in [(0, PINNED, ANYBODY), (1, ANYBODY, PINNED)] {
            let mut dispatcher = dispatcher(&[seat]);
            for client in [waits, served, waits, served] {
                dispatcher.orphans.push_back(held(client));
            }
            dispatcher.place_orphans();
            assert_eq!(waiting(&dispatcher), [SocketAddr::from((waits, 1000)); 2]);
            assert_eq!(dispatcher.lanes[0].row.load(), 2);
            // Nothing can be done about it before a worker comes.
            assert!(!dispatcher.could_place() && dispatcher.waits_in_vain());
        }
    }

    #[test]
    fn no_more_wait_for_a_group_than_may_and_for_the_rest_nothing_is_accepted() {
        for (client, seat) in [(PINNED, 1), (ANYBODY, 0)] {
            let mut dispatcher = dispatcher(&[seat]);
            for _ in 0..MOST_WAITING {
                assert!(!dispatcher.is_crowded());
                let held = dispatcher.place(held(client)).expect_err("nobody is there");
                dispatcher.let_wait(held);
            }
            let lost = || {
                let lost = &dispatcher.board.dispatcher().crowded_out;
                lost.load(std::sync::atomic::Ordering::Relaxed)
            };
            assert_eq!((waiting(&dispatcher).len(), lost()), (MOST_WAITING, 0));
            assert_eq!(dispatcher.is_crowded(), client == ANYBODY);
            let one_more = dispatcher.place(held(PINNED));
            assert_eq!(one_more.is_ok(), client == ANYBODY);
            if let Err(held) = one_more {
                dispatcher.let_wait(held);
                assert_eq!(dispatcher.orphans.len(), MOST_WAITING);
                let lost = &dispatcher.board.dispatcher().crowded_out;
                assert_eq!(lost.load(std::sync::atomic::Ordering::Relaxed), 1);
            }
        }
    }

    #[test]
    fn with_other_rules_whoever_waits_is_sorted_anew() {
        let mut dispatcher = dispatcher(&[1]);
        dispatcher.orphans.push_back(held(PINNED));
        dispatcher.place_orphans();
        assert_eq!(dispatcher.orphans.len(), 1);
        let without = Rules {
            sorter: None,
            ..dispatcher.rules.clone()
        };
        dispatcher.go_by(without);
        dispatcher.refresh(monotonic_ns());
        dispatcher.place_orphans();
        assert!(dispatcher.orphans.is_empty());
        assert_eq!(dispatcher.lanes[0].row.load(), 1);
    }
}
