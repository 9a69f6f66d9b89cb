//! What the dispatcher has in the kernel's epoll set: the listeners that it accepts from, and those
//! that it only keeps an eye on.
//!
//! The second kind are listeners from which workers accept by themselves. A registration that goes off
//! once costs nothing while it has gone off: the first connection after a quiet time makes the
//! dispatcher look whether it is taken, and it goes on looking, every 25 ms, until nobody waits.

use std::{io, os::fd::BorrowedFd};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::turn::Dispatcher;
use crate::{dispatch::mode::Mode, listener::Groups};

/// The event that is no listener: a command has come.
pub(super) const BELL: u64 = u64::MAX;
/// The event that is no listener: the timer has gone off.
pub(super) const TIMER: u64 = u64::MAX - 1;

/// One listener of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// The listener's number.
    pub(super) group: usize,
    pub(super) which: Which,
}

/// Which socket of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The shared listener.
    Shared,
    /// The shared listener by its second descriptor, under which it can be watched beside the first.
    SharedAgain,
    /// The listener of the seat in this place.
    Own(usize),
}

impl Spot {
    fn event(self) -> u64 {
        let which = match self.which {
            Which::Shared => 0,
            Which::SharedAgain => 1,
            Which::Own(place) => place as u64 + 2,
        };
        (self.group as u64) << 32 | which
    }

    pub(super) fn from_event(event: u64) -> Self {
        let which = match event as u32 {
            0 => Which::Shared,
            1 => Which::SharedAgain,
            n => Which::Own(n as usize - 2),
        };
        Self {
            group: (event >> 32) as usize,
            which,
        }
    }

    pub(super) fn listener(self, groups: &Groups) -> Option<BorrowedFd<'_>> {
        let group = groups.get(self.group)?.as_ref()?;
        match self.which {
            Which::Shared => Some(group.shared()),
            Which::SharedAgain => Some(group.shared_again()),
            Which::Own(place) => group.own(place),
        }
    }
}

/// What stands in the epoll set, and what it was chosen for.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) accepted_from: Vec<Spot>,
    pub(super) observed: Vec<Spot>,
    /// The version of everything that the choice depends on, and was anybody ready?
    chosen_for: Option<(u64, bool)>,
}

impl Dispatcher {
    /// Puts into the epoll set what this thread has to accept from now: nothing while no worker is
    /// ready, so that connections wait in the backlog and are not refused.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        let open = self.resting_until.is_none()
            && self.freezing.is_none()
            && !self.rules.paused
            && self.lanes.iter().any(|lane| lane.has_room())
            && !self.is_crowded();
        if self.watched.chosen_for == Some((self.version, open)) {
            return Ok(());
        }
        let before = std::mem::take(&mut self.watched);
        for spot in before.accepted_from.iter().chain(&before.observed) {
            // The listener may be gone, and has left the set then.
            if let Some(listener) = spot.listener(&self.groups) {
                let _ = self.epoll.delete(listener);
            }
        }
        let (accepted_from, observed) = if open {
            self.wanted()
        } else {
            Default::default()
        };
        for spot in &accepted_from {
            if let Some(listener) = spot.listener(&self.groups) {
                self.epoll.add(listener, self.registration(*spot))?;
            }
        }
        for spot in &observed {
            if let Some(listener) = spot.listener(&self.groups) {
                self.epoll.add(listener, once(*spot))?;
            }
        }
        self.watched = Watched {
            accepted_from,
            observed,
            chosen_for: Some((self.version, open)),
        };
        Ok(())
    }

    /// Lets those observed listeners that have gone off do so once more.
    pub(super) fn observe_again(&self) -> io::Result<()> {
        let observed = |spot: &&Spot| self.watched.observed.contains(spot);
        for spot in self.alert.at.iter().filter(observed) {
            if let Some(listener) = spot.listener(&self.groups) {
                self.epoll.modify(listener, &mut once(*spot))?;
            }
        }
        Ok(())
    }

    /// Where to accept, and where to look whether others do. Whatever the mode, no queue is without
    /// somebody who empties it: a connection can arrive where an earlier mode sent it.
    fn wanted(&self) -> (Vec<Spot>, Vec<Spot>) {
        let mode = self.rules.arm.mode();
        let (mut accepted_from, mut observed) = (Vec::new(), Vec::new());
        for (group, members) in self.groups.iter().enumerate() {
            let Some(members) = members else { continue };
            let (closing, spot) = (members.is_closing(), |which| Spot { group, which });
            if closing || mode != Mode::Shared {
                accepted_from.push(spot(Which::Shared));
            }
            if !closing && matches!(mode, Mode::Shared | Mode::Hybrid) {
                observed.push(spot(Which::SharedAgain));
            }
            for place in 0..members.seats() {
                let manned = self
                    .lanes
                    .iter()
                    .any(|lane| lane.seat.place == place && !lane.is_hung());
                if mode == Mode::Reuseport && manned && !closing {
                    observed.push(spot(Which::Own(place)));
                } else {
                    accepted_from.push(spot(Which::Own(place)));
                }
            }
        }
        (accepted_from, observed)
    }

    pub(super) fn registration(&self, spot: Spot) -> EpollEvent {
        let exclusive = match (self.rules.arm.mode(), spot.which) {
            (Mode::Hybrid, Which::Shared) => EpollFlags::EPOLLEXCLUSIVE,
            _ => EpollFlags::empty(),
        };
        EpollEvent::new(EpollFlags::EPOLLIN | exclusive, spot.event())
    }
}

fn once(spot: Spot) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, spot.event())
}
