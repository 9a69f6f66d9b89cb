//! Replies, failures, and whoever waits for them.

use super::{
    Core, HubLink, Lost,
    pending::{Meaning, Request, Target},
    plan::only,
    ports::failure_of,
};
use crate::bus::{
    Failure, ProcessId, To,
    frame::{self, Attached, Frame, Kind, MAX_PATH, Malformed},
};

impl<A> Core<A> {
    /// A reply or a failure came, by the port in this slot, from another hub if `afar`.
    pub(super) fn answer(
        &mut self,
        slot: u32,
        from: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
        afar: bool,
    ) -> Result<(), Malformed> {
        let requester = only(frame.to).ok_or(Malformed::To)?;
        if frame.header.attached == Attached::Line {
            return Err(Malformed::Attached);
        }
        if frame.header.id == 0 || (frame.header.kind == Kind::Failure && frame.payload.is_empty())
        {
            return Err(Malformed::Forbidden);
        }
        let request = (requester, frame.header.id);
        if requester.master == self.me {
            if self.ends(request, from, frame.header.kind, afar) {
                self.answer_here(requester, from, frame, attached);
            }
        } else if afar
            // What another hub says goes on to the requester's: here it counts for our own processes only.
            || !self.pending.has(request)
            || self.ends(request, from, frame.header.kind, afar)
        {
            self.answer_there(slot, requester, from, frame, attached, afar);
        }
        Ok(())
    }

    /// A request that was told to nobody, or that all have failed, has failed: `from` says so.
    pub(super) fn fail_request(
        &mut self,
        requester: ProcessId,
        id: u64,
        from: ProcessId,
        failure: Failure,
        text: &str,
    ) {
        if requester.master != self.me {
            if let Some(link) = self.roster.link_to(requester.master) {
                let outcome = Some((failure, text));
                self.ports
                    .push_outcome(link, requester, from, id, outcome, &self.counters);
            }
            return;
        }
        self.counters.failures(failure).add(1);
        if let Some(&slot) = self.slots.get(&requester.number) {
            let outcome = Some((failure, text));
            self.ports
                .push_outcome(slot, requester, from, id, outcome, &self.counters);
        }
    }

    /// The hub itself says that a request of one of our processes fails.
    pub(super) fn tell_failure(
        &mut self,
        requester: ProcessId,
        id: u64,
        failure: Failure,
        text: &str,
    ) {
        self.fail_request(requester, id, self.me.process(), failure, text);
    }

    /// One of those who might have answered a request will not.
    pub(super) fn fail_request_of(
        &mut self,
        requester: ProcessId,
        id: u64,
        target: ProcessId,
        failure: Failure,
        text: &str,
    ) {
        match self.pending.failed((requester, id), target) {
            (Meaning::Last, slot) => {
                self.ports.release(slot);
                self.fail_request(requester, id, target, failure, text);
            }
            (Meaning::NotLast, _) => {}
            // Its own hub counts who is left.
            (Meaning::Unknown, _) if requester.master != self.me => {
                self.fail_request(requester, id, target, failure, text);
            }
            (Meaning::Unknown, _) => {}
        }
    }

    /// A request waits from now on. False: too many do.
    pub(super) fn expect(
        &mut self,
        slot: u32,
        request: Request,
        targets: &[Target],
        deadline: u64,
        now: u64,
    ) -> bool {
        let Some(port) = self.ports.get_mut(slot) else {
            return false;
        };
        if port.requests >= port.sweep_at.min(self.limits.requests) {
            self.forget_requests(|_, by, deadline| by == slot && deadline != 0 && deadline <= now);
            let port = self.ports.get_mut(slot).expect("it was there");
            port.sweep_at = (2 * port.requests).max(1024);
        }
        let port = self.ports.get_mut(slot).expect("it was there");
        if port.requests >= self.limits.requests {
            return false;
        }
        port.requests += 1;
        let is_open = targets.iter().any(|one| matches!(one, Target::Owner(_)));
        if let Some(before) = self
            .pending
            .insert(request, slot, targets, deadline, is_open)
        {
            self.ports.release(before);
        }
        true
    }

    /// Is this answer the one that its request waits for?
    fn ends(&mut self, request: Request, from: ProcessId, kind: Kind, afar: bool) -> bool {
        let waited = self.pending.has(request);
        let ended = if kind == Kind::Reply {
            self.pending.answered(request, from, afar)
        } else {
            match self.pending.failed(request, from) {
                (Meaning::Last, slot) => Some(slot),
                (Meaning::NotLast, _) => return false,
                (Meaning::Unknown, _) => None,
            }
        };
        if let Some(slot) = ended {
            self.ports.release(slot);
            return true;
        }
        let (requester, id) = request;
        let slot = self.slots.get(&requester.number).copied();
        let here = slot.filter(|_| requester.master == self.me);
        let process = here.and_then(|slot| self.ports.process(slot));
        // Asked before this hub took over from another.
        if !waited && process.is_some_and(|process| id < process.unseen_below) {
            return true;
        }
        if kind == Kind::Reply {
            self.counters.lost(Lost::Unasked).add(1);
        }
        false
    }

    fn answer_here(
        &mut self,
        requester: ProcessId,
        from: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
    ) {
        let Some(&slot) = self.slots.get(&requester.number) else {
            return;
        };
        if frame.header.kind == Kind::Failure {
            self.counters.failures(failure_of(frame)).add(1);
        }
        if self.push(slot, frame.bytes, from, attached).is_err() {
            let text = "the answer had no room";
            self.fail_request(requester, frame.header.id, from, Failure::Gone, text);
        }
    }

    fn answer_there(
        &mut self,
        slot: u32,
        requester: ProcessId,
        from: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
        afar: bool,
    ) {
        let Some(link) = self.roster.link_to(requester.master) else {
            return self.counters.lost(Lost::Unroutable).add(1);
        };
        if (afar && !self.may_cross(slot, link)) || frame.path.len() >= 8 * MAX_PATH {
            return self.counters.lost(Lost::Loop).add(1);
        }
        let id = frame.header.id;
        if attached.is_some() && matches!(self.ports.link(link), Some(HubLink::Nats(_))) {
            self.counters.lost(Lost::Attachment).add(1);
            let text = "descriptors do not travel over NATS";
            return self.fail_request(requester, id, from, Failure::Refused, text);
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        frame::relay(frame, &To::from(requester), self.me, &mut bytes);
        if self.push(link, &bytes, from, attached).is_err() {
            let text = "the answer had no room";
            self.fail_request(requester, id, from, Failure::Gone, text);
        }
        self.scratch = bytes;
    }
}
