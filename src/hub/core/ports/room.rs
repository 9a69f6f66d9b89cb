//! One port: what makes room when too much waits, and what is made up for later.

use super::{
    End, Evicted, Port, Refusal,
    frames::{
        acknowledgement_frame, failure_frame, failure_of, is_bare, is_message, tell_frame,
        welcome_of,
    },
};
use crate::{
    bus::{
        Failure, ProcessId,
        control::Tell,
        frame::{self, Frame, Kind},
    },
    config::BusOverflow,
    hub::core::{
        Limits,
        counters::{Counters, Lost},
    },
};

/// Answers that are owed to one port at the most; beyond, they are lost.
const MOST_OWED: usize = 65_536;
/// An answer that had no room, and is sent as soon as there is some.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) to: ProcessId,
    pub(super) from: ProcessId,
    pub(super) id: u64,
    pub(super) what: Due,
}

/// What is owed.
#[derive(Debug)]
pub(super) enum Due {
    Acknowledgement,
    Failure(Failure),
    Welcome(Tell),
}

impl<A> Port<A> {
    #[inline]
    pub(super) fn append(&mut self, frame: &[u8], from: ProcessId, attached: Option<A>) {
        let sequence = self.sequence;
        self.queue.push(frame.len(), attached, |bytes| {
            let start = bytes.len();
            bytes.extend_from_slice(frame);
            let copy = &mut bytes[start..];
            frame::set_sequence(copy, sequence);
            frame::set_from(copy, from);
        });
    }

    /// Was it given up?
    pub(in crate::hub::core) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Makes room for so many bytes, or says that there is none.
    #[cold]
    pub(super) fn make_room(
        &mut self,
        bytes: usize,
        attached: bool,
        limits: &Limits,
        counters: &Counters,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), Refusal> {
        if self.is_cut {
            return Err(Refusal::Closed);
        }
        if attached && self.queue.attached() >= limits.attachments {
            if matches!(self.end, End::Hub(_)) {
                self.sequence -= 1;
            }
            counters.lost(Lost::Overflow).add(1);
            return Err(Refusal::Full);
        }
        // What is owed is older: it goes first, with the number that was meant for the new frame.
        self.sequence -= 1;
        self.pay(counters);
        self.sequence += 1;
        if self.queue.has_room(bytes) {
            return Ok(());
        }
        let End::Process(process) = &self.end else {
            // Facts have to come through without a gap: one would have all of them sent again.
            self.sequence -= 1;
            counters.lost(Lost::Overflow).add(1);
            return Err(Refusal::Full);
        };
        if limits.overflow == BusOverflow::Cut {
            self.cut(counters);
            return Err(Refusal::Closed);
        }
        let me = process.id;
        let mut owed = Vec::new();
        while !self.queue.has_room(bytes) {
            let dropped = self.queue.drop_oldest(|frame, _| {
                if is_message(frame) {
                    counters.lost(Lost::Overflow).add(1);
                }
                if frame.header.kind == Kind::Request {
                    evicted.push(Evicted {
                        requester: frame.header.from,
                        id: frame.header.id,
                        target: me,
                    });
                }
                owed.extend(due_for(frame).map(|what| Owed {
                    to: me,
                    from: frame.header.from,
                    id: frame.header.id,
                    what,
                }));
            });
            if !dropped {
                break;
            }
        }
        for one in owed {
            self.owe(one, counters);
        }
        Ok(())
    }

    pub(super) fn owe(&mut self, owed: Owed, counters: &Counters) {
        if self.owed.len() < MOST_OWED {
            self.owed.push_back(owed);
        } else {
            counters.lost(Lost::Overflow).add(1);
        }
    }

    /// Puts what is owed into the queue, as far as there is room.
    #[inline]
    pub(super) fn pay(&mut self, counters: &Counters) {
        if !self.owed.is_empty() {
            self.pay_some(counters);
        }
    }

    #[cold]
    fn pay_some(&mut self, counters: &Counters) {
        while let Some(owed) = self.owed.front() {
            let frame = match &owed.what {
                Due::Acknowledgement => acknowledgement_frame(owed.from, owed.to, owed.id),
                Due::Failure(failure) => failure_frame(owed.from, owed.to, owed.id, *failure, ""),
                Due::Welcome(tell) => tell_frame(owed.from, tell),
            };
            if !self.queue.has_room(frame.len()) {
                return;
            }
            let from = owed.from;
            let is_welcome = matches!(owed.what, Due::Welcome(_));
            self.owed.pop_front();
            // The numbers begin anew with a welcome, whenever it comes.
            self.sequence = if is_welcome { 1 } else { self.sequence + 1 };
            self.append(&frame, from, None);
            counters.delivered.add(1);
        }
    }

    /// Gives the port up: nothing goes there any more.
    pub(super) fn cut(&mut self, counters: &Counters) {
        self.is_cut = true;
        counters.cut.add(1);
        let mut waited = 0;
        while self
            .queue
            .drop_oldest(|frame, _| waited += u64::from(is_message(frame)))
        {}
        self.owed.clear();
        counters.lost(Lost::Closed).add(waited);
    }
}

/// What the receiver of a frame that is dropped is owed for it.
fn due_for(frame: &Frame<'_>) -> Option<Due> {
    match frame.header.kind {
        Kind::Reply if is_bare(frame) => Some(Due::Acknowledgement),
        // Not `Overflow`, which says that the receiver has not had it: it has done what it was asked for, and
        // has what came along.
        Kind::Reply => Some(Due::Failure(Failure::Gone)),
        Kind::Failure => Some(Due::Failure(failure_of(frame))),
        Kind::Tell => welcome_of(frame).map(Due::Welcome),
        _ => None,
    }
}
