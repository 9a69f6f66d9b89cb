//! What is to happen to a client later.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// It goes on, after a failure, or begins.
    GoOn,
    /// It has thought about its next request.
    Ask,
    /// Its connection has been there for long enough.
    Leave,
}

/// Something that is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Alarm {
    /// Monotonic clock, nanoseconds.
    pub(super) at: u64,
    pub(super) client: u32,
    /// Of the client's connection: if it has another by then, nothing happens.
    pub(super) generation: u32,
    pub(super) what: What,
}

/// All of them, soonest first.
#[derive(Debug, Default)]
pub(super) struct Alarms(BinaryHeap<Reverse<Alarm>>);

impl Alarms {
    pub(super) fn set(&mut self, alarm: Alarm) {
        self.0.push(Reverse(alarm));
    }

    /// When the next one is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.0.peek().map(|Reverse(alarm)| alarm.at)
    }

    /// The next one, if it is due.
    pub(super) fn due(&mut self, now: u64) -> Option<Alarm> {
        if self.next_at()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(alarm)| alarm)
    }
}
