//! A message, from its sender to all queues that it belongs in.

use super::{Core, HubLink, Loads, Lost, pending::Target, plan::Plan, ports::Refusal};
use crate::bus::{
    Failure, ProcessId, To,
    control::Tell,
    frame::{self, Attached, Frame, Kind, MAX_NAMED, MAX_PATH, Malformed, Space},
    topic::is_reserved,
};

/// `To::Subscribers`, as it travels.
const SUBSCRIBERS: &[u8] = &[1];

/// A message under way.
struct Letter<'f> {
    frame: &'f Frame<'f>,
    sender: ProcessId,
    /// The port that it came by.
    came_by: u32,
    is_request: bool,
    is_from_afar: bool,
    now: u64,
}

impl<A> Core<A> {
    /// One of our processes has sent a frame.
    #[inline]
    pub(super) fn take_from_process(
        &mut self,
        slot: u32,
        sender: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
        now: u64,
        loads: &dyn Loads,
    ) -> Result<(), Malformed> {
        // The library's own names go with a descriptor, which stays on this machine: another one would
        // refuse the whole packet.
        let is_bare = frame.header.attached == Attached::Nothing && is_reserved(frame.name);
        if !frame.path.is_empty() || is_bare {
            return Err(Malformed::Forbidden);
        }
        match frame.header.kind {
            Kind::Event if is_plain(frame) => {
                self.tally.received += 1;
                self.publish(sender, frame)
            }
            Kind::Event | Kind::Request => {
                self.tally.received += 1;
                self.send(slot, sender, frame, attached, now, loads)
            }
            Kind::Reply | Kind::Failure => {
                self.tally.received += 1;
                self.answer(slot, sender, frame, attached, false)
            }
            Kind::Ask => self.ask(slot, sender, frame, attached, loads),
            Kind::Tell | Kind::Fact => Err(Malformed::Forbidden),
        }
    }

    /// Another hub has sent a frame.
    pub(super) fn take_from_hub(
        &mut self,
        slot: u32,
        link: HubLink,
        frame: &Frame<'_>,
        attached: Option<A>,
        now: u64,
    ) -> Result<(), Malformed> {
        self.count_up(slot, frame.header.sequence);
        match frame.header.kind {
            Kind::Event | Kind::Request | Kind::Reply | Kind::Failure => {
                self.tally.received += 1;
                let routed = frame.to.first() == Some(&10);
                // Between hubs there is one way: what comes by another has come in a circle, or is forged.
                if !self.is_believed(slot, frame, routed) {
                    self.counters.lost(Lost::Stranger).add(1);
                    return Ok(());
                }
                if !routed && frame.masters().any(|master| master == self.me) {
                    self.counters.lost(Lost::Loop).add(1);
                    return Ok(());
                }
                match frame.header.kind {
                    Kind::Event | Kind::Request => self.pass(slot, frame, attached, now),
                    _ => self.answer(slot, frame.header.from, frame, attached, true),
                }
            }
            Kind::Fact if attached.is_none() => self.hear(slot, link, frame),
            Kind::Tell if attached.is_none() && link == HubLink::Above => self.heed(frame),
            Kind::Fact | Kind::Tell | Kind::Ask => Err(Malformed::Forbidden),
        }
    }

    /// May what comes by this link be from whom it says? A message by a route may have come a long way round:
    /// then the way that it tells of must begin with its sender and end behind the link.
    fn is_believed(&self, slot: u32, frame: &Frame<'_>, routed: bool) -> bool {
        let is_behind = |master| self.roster.link_to(master) == Some(slot);
        let from = frame.header.from.master;
        let mut way = frame.masters();
        match (way.next(), way.next_back()) {
            (Some(first), last) if routed => first == from && is_behind(last.unwrap_or(first)),
            _ => is_behind(from),
        }
    }

    /// What most messages are: for whoever has subscribed, no answer wanted, nothing attached. The way of
    /// a flood: it takes no memory but in queues.
    #[inline]
    fn publish(&mut self, sender: ProcessId, frame: &Frame<'_>) -> Result<(), Malformed> {
        let wanted = self.interest.of(frame.name).ok_or(Malformed::Name)?;
        for &slot in &wanted.own {
            let pushed = self
                .ports
                .push(slot, frame.bytes, sender, None, &self.counters);
            if pushed.is_ok() {
                self.tally.delivered += 1;
                self.tally.bytes += frame.bytes.len() as u64;
            }
        }
        if wanted.links.is_empty() {
            return Ok(());
        }
        self.scratch.clear();
        frame::relay(frame, &To::Subscribers, self.me, &mut self.scratch);
        for &link in &wanted.links {
            let pushed = self
                .ports
                .push(link, &self.scratch, sender, None, &self.counters);
            if pushed.is_ok() {
                self.tally.delivered += 1;
                self.tally.bytes += self.scratch.len() as u64;
            }
        }
        Ok(())
    }

    /// Any message of a process of ours.
    fn send(
        &mut self,
        slot: u32,
        sender: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
        now: u64,
        loads: &dyn Loads,
    ) -> Result<(), Malformed> {
        let letter = Letter::new(frame, sender, slot, false, now)?;
        if letter.is_request
            && let Some(process) = self.ports.process_mut(slot)
            && process.unseen_below == u64::MAX
        {
            process.unseen_below = frame.header.id;
        }
        let mut plan = std::mem::take(&mut self.plan);
        plan.clear();
        let planned = self.plan_from_here(sender, frame, loads, &mut plan);
        if planned.is_ok() {
            self.carry_out(&letter, &mut plan, attached, true);
        }
        self.plan = plan;
        planned
    }

    /// Any message of another hub.
    fn pass(
        &mut self,
        slot: u32,
        frame: &Frame<'_>,
        attached: Option<A>,
        now: u64,
    ) -> Result<(), Malformed> {
        let letter = Letter::new(frame, frame.header.from, slot, true, now)?;
        let mut plan = std::mem::take(&mut self.plan);
        plan.clear();
        let planned = self.plan_from_afar(slot, frame, &mut plan);
        if planned.is_ok() {
            // By name, each who does not get it is a failure of its own: the sender's hub counts them.
            for (process, why) in std::mem::take(&mut plan.missing) {
                if letter.is_request {
                    self.fail_request_of(letter.sender, frame.header.id, process, why, "");
                } else if why == Failure::Unroutable {
                    self.counters.lost(Lost::Unroutable).add(1);
                }
            }
            let by_name = matches!(frame.to.first(), Some(9 | 10));
            let is_mine = !by_name && !plan.own.is_empty();
            if letter.is_request && !by_name && plan.own.is_empty() {
                let me = self.me.process();
                let why = Failure::NoListener;
                self.fail_request(letter.sender, frame.header.id, me, why, "");
            }
            if plan.count() > 0 {
                self.carry_out(&letter, &mut plan, attached, is_mine);
            }
        }
        self.plan = plan;
        planned
    }

    /// Puts a message into the queues that it was planned for. `waits`: of a request, this hub sees to
    /// it that it ends.
    fn carry_out(
        &mut self,
        letter: &Letter<'_>,
        plan: &mut Plan,
        attached: Option<A>,
        waits: bool,
    ) {
        let header = &letter.frame.header;
        if header.deadline != 0 && header.deadline <= letter.now {
            self.counters.lost(Lost::Expired).add(1);
            return self.refuse(letter, plan, Failure::Expired, "");
        }
        if plan.count() == 0 {
            let why = plan.why.unwrap_or(Failure::NoListener);
            if why == Failure::Unroutable && !letter.is_request {
                self.counters.lost(Lost::Unroutable).add(1);
            }
            return self.refuse(letter, plan, why, "");
        }
        if attached.is_some()
            && let Some(text) = self.cannot_attach(plan)
        {
            self.counters.lost(Lost::Attachment).add(1);
            return self.refuse(letter, plan, Failure::Refused, text);
        }
        if plan.own.len() < plan.count() && letter.frame.path.len() >= 8 * MAX_PATH {
            self.counters.lost(Lost::Loop).add(1);
            return self.refuse(
                letter,
                plan,
                Failure::Unroutable,
                "it has come through too many hubs",
            );
        }
        if letter.is_request && waits {
            let mut targets = self.targets(plan);
            if letter.is_from_afar {
                // The others are their own hubs' business.
                targets.truncate(plan.own.len());
            }
            let request = (letter.sender, header.id);
            if !self.expect(
                letter.came_by,
                request,
                &targets,
                header.deadline,
                letter.now,
            ) {
                return self.refuse(letter, plan, Failure::Overflow, "too many requests wait");
            }
        }
        self.deliver(letter, plan, attached);
    }

    fn deliver(&mut self, letter: &Letter<'_>, plan: &mut Plan, mut attached: Option<A>) {
        let frame = letter.frame;
        for &slot in &plan.own {
            let pushed = self.push(slot, frame.bytes, letter.sender, attached.take());
            if let Err(why) = pushed
                && let Some(process) = self.ports.process(slot)
            {
                let id = process.id;
                self.did_not_go(letter, id, why);
            }
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        if !plan.links.is_empty() {
            let to = To::decode(frame.to).expect("it was planned by that");
            bytes.clear();
            frame::relay(frame, &to, self.me, &mut bytes);
            for &link in &plan.links {
                if let Err(why) = self.push(link, &bytes, letter.sender, attached.take()) {
                    for (owner, by) in &plan.owners {
                        if *by == link {
                            self.did_not_go(letter, owner.process(), why);
                        }
                    }
                }
            }
        }
        plan.named.sort_unstable_by_key(|(link, _)| *link);
        for some in plan.named.chunk_by(|one, next| one.0 == next.0) {
            for some in some.chunks(MAX_NAMED) {
                let to = To::Processes(some.iter().map(|(_, process)| *process).collect());
                bytes.clear();
                frame::relay(frame, &to, self.me, &mut bytes);
                if let Err(why) = self.push(some[0].0, &bytes, letter.sender, attached.take()) {
                    for (_, process) in some {
                        self.did_not_go(letter, *process, why);
                    }
                }
            }
        }
        if let Some((link, route)) = plan.route.take() {
            bytes.clear();
            frame::relay(frame, &To::Route(route), self.me, &mut bytes);
            if let Err(why) = self.push(link, &bytes, letter.sender, attached.take()) {
                self.did_not_go(letter, self.me.process(), why);
            }
        }
        self.scratch = bytes;
    }

    /// It had no room in the queue of one of those whom it was for.
    fn did_not_go(&mut self, letter: &Letter<'_>, target: ProcessId, why: Refusal) {
        if letter.is_request {
            let why = match why {
                Refusal::Full => Failure::Overflow,
                Refusal::Closed => Failure::Gone,
            };
            self.fail_request_of(letter.sender, letter.frame.header.id, target, why, "");
        }
    }

    /// Nobody gets it: a request fails. The hub of a sender elsewhere is told for each who might have
    /// answered.
    fn refuse(&mut self, letter: &Letter<'_>, plan: &Plan, why: Failure, text: &str) {
        if !letter.is_request {
            return;
        }
        let (sender, id) = (letter.sender, letter.frame.header.id);
        if !letter.is_from_afar {
            return self.tell_failure(sender, id, why, text);
        }
        for target in self.targets(plan) {
            let from = match target {
                Target::Process(process) => process,
                // Whoever says so must be behind the link that it comes by.
                Target::Routed(_) => self.me.process(),
                Target::Owner(owner) => owner.process(),
            };
            self.fail_request_of(sender, id, from, why, text);
        }
    }

    /// Why a descriptor cannot go where this is planned to go.
    fn cannot_attach(&self, plan: &Plan) -> Option<&'static str> {
        let named = plan.named.iter().map(|(link, _)| *link);
        let owners = plan.owners.iter().map(|(_, link)| *link);
        let route = plan.route.iter().map(|(link, _)| *link);
        if plan.count() != 1 {
            Some("a descriptor goes to one process")
        } else if named
            .chain(owners)
            .chain(route)
            .any(|link| self.is_far(link))
        {
            Some("descriptors do not travel over NATS")
        } else {
            None
        }
    }

    /// Sees whether something is missing before this frame of a hub.
    fn count_up(&mut self, slot: u32, sequence: u64) {
        let Some(hub) = self.ports.hub_mut(slot) else {
            return;
        };
        let expected = std::mem::replace(&mut hub.expected, sequence.wrapping_add(1));
        // Whoever begins anew tells everything anyway.
        if sequence != expected && sequence != 1 {
            self.inquire(slot);
        }
    }

    /// The hub above tells this one whom it is below.
    fn heed(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        if let Tell::Welcome { parent, .. } = super::facts::read(frame.payload)? {
            self.put_below(parent);
        }
        Ok(())
    }
}

impl<'f> Letter<'f> {
    fn new(
        frame: &'f Frame<'f>,
        sender: ProcessId,
        came_by: u32,
        is_from_afar: bool,
        now: u64,
    ) -> Result<Self, Malformed> {
        let is_request = frame.header.kind == Kind::Request;
        if is_request && frame.header.id == 0 {
            return Err(Malformed::Forbidden);
        }
        if frame.header.attached == Attached::Line {
            return Err(Malformed::Attached);
        }
        Ok(Self {
            frame,
            sender,
            came_by,
            is_request,
            is_from_afar,
            now,
        })
    }
}

/// Can it go the short way?
#[inline]
fn is_plain(frame: &Frame<'_>) -> bool {
    frame.to == SUBSCRIBERS
        && frame.header.space == Space::Topic
        && frame.header.attached == Attached::Nothing
        && frame.header.deadline == 0
}
