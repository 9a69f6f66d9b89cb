//! The hub's sides of all lines: what waits for each, what is numbered, what is lost.

use std::collections::{HashSet, VecDeque};

use super::{
    HubLink, Limits, Overflow, PortId,
    counters::{Counters, Lost},
    hash::Seed,
};
use crate::bus::{
    Encoding, Failure, ProcessId, To,
    control::Tell,
    frame::{self, Attached, Frame, Header, Kind, Space},
    queue::Queue,
};

/// Answers that are owed to one port at the most; beyond, they are lost.
const MOST_OWED: usize = 65_536;
/// Facts may wait for a hub beyond the limit for messages, as nothing heals their loss but sending all
/// of them again; up to so many times the limit.
const FACTS_BEYOND: usize = 8;

/// All ports, by slot.
#[derive(Debug)]
pub(super) struct Ports<A> {
    slots: Vec<Slot<A>>,
    free: Vec<u32>,
    dirty: VecDeque<u32>,
    /// Requests that were dropped to make room, to be failed.
    evicted: Vec<Evicted>,
    limits: Limits,
}

#[derive(Debug)]
struct Slot<A> {
    /// How many ports have been here.
    generation: u32,
    port: Option<Port<A>>,
}

/// The hub's side of one line.
#[derive(Debug)]
pub(super) struct Port<A> {
    /// Who is at the other end.
    pub(super) end: End,
    /// It has sent something that makes no sense.
    pub(super) is_malformed: bool,
    /// The requests that wait for an answer to whoever is there.
    pub(super) requests: usize,
    /// When there are so many of them, those that are too late anyway are forgotten.
    pub(super) sweep_at: usize,
    queue: Queue<A>,
    /// The last that was given.
    sequence: u64,
    is_dirty: bool,
    /// The hub has given it up, and waits to be told that it is closed.
    is_cut: bool,
    owed: VecDeque<Owed>,
}

/// Who is at the other end of a line.
#[derive(Debug)]
pub(super) enum End {
    /// One of our processes.
    Process(ProcessEnd),
    /// Another hub.
    Hub(HubEnd),
}

/// What there is to know about the line of a process.
#[derive(Debug)]
pub(super) struct ProcessEnd {
    /// Who.
    pub(super) id: ProcessId,
    /// The one above.
    pub(super) parent: Option<ProcessId>,
    /// What it has subscribed to.
    pub(super) patterns: HashSet<Box<str>, Seed>,
    /// Does it want to know who comes and goes?
    pub(super) watches: bool,
    /// It was there before this hub: answers may come to requests that this hub has not seen, whose ids
    /// are below this one.
    pub(super) unseen_below: u64,
}

/// What there is to know about the line of a hub.
#[derive(Debug)]
pub(super) struct HubEnd {
    /// Where it stands.
    pub(super) link: HubLink,
    /// The sequence number that comes next.
    pub(super) expected: u64,
    /// It has been asked for everything, as something was missing, and has not begun to answer.
    pub(super) asked: bool,
}

/// An answer that had no room, and is sent as soon as there is some.
#[derive(Debug)]
struct Owed {
    to: ProcessId,
    from: ProcessId,
    id: u64,
    what: Due,
}

#[derive(Debug)]
enum Due {
    Acknowledgement,
    Failure(Failure),
    Welcome(Tell),
}

/// A request that had to make room for something newer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evicted {
    /// Who waits for its answer.
    pub(super) requester: ProcessId,
    /// The request's id.
    pub(super) id: u64,
    /// For whom it waited.
    pub(super) target: ProcessId,
}

/// Why a frame was not put into a queue. Its number is used up: the receiver sees that it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too much waits.
    Full,
    /// The port is closed.
    Closed,
}

impl<A> Ports<A> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dirty: VecDeque::new(),
            evicted: Vec::new(),
            limits,
        }
    }

    /// A new port.
    pub(super) fn open(&mut self, end: End) -> PortId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                port: None,
            });
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.generation += 1;
        place.port = Some(Port {
            end,
            is_malformed: false,
            requests: 0,
            sweep_at: 1024,
            queue: Queue::new(self.limits.queue_bytes),
            sequence: 0,
            is_dirty: false,
            is_cut: false,
            owed: VecDeque::new(),
        });
        PortId {
            slot,
            generation: place.generation,
        }
    }

    /// Nothing goes there any more; what waits is lost.
    pub(super) fn close(&mut self, slot: u32, counters: &Counters) -> Option<Port<A>> {
        let port = self.slots[slot as usize].port.take()?;
        self.free.push(slot);
        let mut port = port;
        let mut waited = 0;
        while port
            .queue
            .drop_oldest(|frame, _| waited += u64::from(is_message(frame)))
        {}
        counters.lost(Lost::Closed).add(waited);
        Some(port)
    }

    /// Drops all that waits for a link that is to be closed; the requests that were to go on from there by a
    /// route.
    pub(super) fn drop_routed(&mut self, slot: u32, counters: &Counters) -> Vec<(ProcessId, u64)> {
        let mut routed = Vec::new();
        while let Some(port) = self.get_mut(slot)
            && port.queue.drop_oldest(|frame, _| {
                counters
                    .lost(Lost::Closed)
                    .add(u64::from(is_message(frame)));
                if frame.header.kind == Kind::Request && frame.to.first() == Some(&10) {
                    routed.push((frame.header.from, frame.header.id));
                }
            })
        {}
        routed
    }

    /// The slot of a port that is open.
    #[inline]
    pub(super) fn slot(&self, id: PortId) -> Option<u32> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.generation == id.generation && slot.port.is_some()).then_some(id.slot)
    }

    /// The id of the port in this slot.
    pub(super) fn id(&self, slot: u32) -> PortId {
        PortId {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Port<A>> {
        self.slots.get(slot as usize)?.port.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Port<A>> {
        self.slots.get_mut(slot as usize)?.port.as_mut()
    }

    /// All that are open, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Port<A>)> {
        let all = self.slots.iter().enumerate();
        all.filter_map(|(slot, place)| Some((slot as u32, place.port.as_ref()?)))
    }

    /// The links to other hubs, by slot.
    pub(super) fn hubs(&self) -> impl Iterator<Item = (u32, HubLink)> {
        self.iter().filter_map(|(slot, port)| match &port.end {
            End::Hub(hub) => Some((slot, hub.link)),
            End::Process(_) => None,
        })
    }

    /// Where the link in this slot leads.
    pub(super) fn link(&self, slot: u32) -> Option<HubLink> {
        match &self.get(slot)?.end {
            End::Hub(hub) => Some(hub.link),
            End::Process(_) => None,
        }
    }

    /// The process at the port in this slot.
    #[inline]
    pub(super) fn process(&self, slot: u32) -> Option<&ProcessEnd> {
        match &self.get(slot)?.end {
            End::Process(process) => Some(process),
            End::Hub(_) => None,
        }
    }

    pub(super) fn process_mut(&mut self, slot: u32) -> Option<&mut ProcessEnd> {
        match &mut self.get_mut(slot)?.end {
            End::Process(process) => Some(process),
            End::Hub(_) => None,
        }
    }

    pub(super) fn hub_mut(&mut self, slot: u32) -> Option<&mut HubEnd> {
        match &mut self.get_mut(slot)?.end {
            End::Hub(hub) => Some(hub),
            End::Process(_) => None,
        }
    }

    /// A request that was evicted since the last call, to be failed.
    pub(super) fn next_evicted(&mut self) -> Option<Evicted> {
        self.evicted.pop()
    }

    /// Puts an encoded frame, from whoever it is from, into the queue of this port. The oldest that
    /// waits there makes room, but not in front of a hub: there the new frame is refused, for facts
    /// must not be lost.
    ///
    /// # Errors
    /// See [`Refusal`].
    #[inline]
    pub(super) fn push(
        &mut self,
        slot: u32,
        frame: &[u8],
        from: ProcessId,
        attached: Option<A>,
        counters: &Counters,
    ) -> Result<(), Refusal> {
        let Some(port) = self.slots[slot as usize].port.as_mut() else {
            return Err(Refusal::Closed);
        };
        port.sequence += 1;
        let scarce =
            !port.queue.has_room(frame.len()) || attached.is_some() || !port.owed.is_empty();
        if scarce || port.is_cut {
            let room = port.make_room(
                frame.len(),
                attached.is_some(),
                &self.limits,
                counters,
                &mut self.evicted,
            );
            let is_cut = port.is_cut;
            if room.is_err() {
                if is_cut {
                    self.note(slot);
                }
                return room;
            }
        }
        let port = self.slots[slot as usize]
            .port
            .as_mut()
            .expect("it was there");
        port.append(frame, from, attached);
        if !port.is_dirty {
            port.is_dirty = true;
            self.dirty.push_back(slot);
        }
        Ok(())
    }

    /// Puts a fact into the queue of this link, or gives the link up when far too much waits.
    pub(super) fn push_fact(
        &mut self,
        slot: u32,
        frame: &[u8],
        from: ProcessId,
        counters: &Counters,
    ) {
        let most = self.limits.queue_bytes.saturating_mul(FACTS_BEYOND);
        let Some(port) = self.get_mut(slot) else {
            return;
        };
        if port.is_cut {
            return;
        }
        port.sequence += 1;
        if port.queue.bytes() + frame.len() > most {
            port.cut(counters);
        } else {
            port.append(frame, from, None);
        }
        self.note(slot);
    }

    /// Welcomes the process in this slot, once more perhaps: its numbers begin anew.
    pub(super) fn welcome(&mut self, slot: u32, hub: ProcessId, tell: Tell, counters: &Counters) {
        let Some(port) = self.get_mut(slot) else {
            return;
        };
        if port.is_cut {
            return;
        }
        let frame = tell_frame(hub, &tell);
        port.pay(counters);
        port.owed
            .retain(|owed| !matches!(owed.what, Due::Welcome(_)));
        port.sequence = 1;
        port.append(&frame, hub, None);
        self.note(slot);
    }

    /// A failure, or an acknowledgement (`None`), for a process that is behind this port. Kept if there is
    /// no room.
    pub(super) fn push_outcome(
        &mut self,
        slot: u32,
        to: ProcessId,
        from: ProcessId,
        id: u64,
        failure: Option<(Failure, &str)>,
        counters: &Counters,
    ) {
        let frame = match failure {
            None => acknowledgement_frame(from, to, id),
            Some((failure, text)) => failure_frame(from, to, id, failure, text),
        };
        if self.push(slot, &frame, from, None, counters) == Err(Refusal::Full) {
            let what = match failure {
                None => Due::Acknowledgement,
                Some((failure, _)) => Due::Failure(failure),
            };
            if let Some(port) = self.get_mut(slot) {
                port.owe(Owed { to, from, id, what }, counters);
            }
        }
    }

    /// A request that came by this port does not wait any more.
    pub(super) fn release(&mut self, slot: u32) {
        if let Some(port) = self.get_mut(slot) {
            port.requests = port.requests.saturating_sub(1);
        }
    }

    /// See [`super::Core::next_dirty`].
    pub(super) fn next_dirty(&mut self) -> Option<PortId> {
        loop {
            let slot = self.dirty.pop_front()?;
            if let Some(port) = self.get_mut(slot)
                && std::mem::take(&mut port.is_dirty)
            {
                return Some(self.id(slot));
            }
        }
    }

    /// See [`super::Core::queue`].
    pub(super) fn queue(&mut self, id: PortId, counters: &Counters) -> Option<&mut Queue<A>> {
        let slot = self.slot(id)?;
        let port = self.get_mut(slot)?;
        if port.is_cut {
            return None;
        }
        port.pay(counters);
        Some(&mut port.queue)
    }

    /// The bytes that wait in all queues.
    pub(super) fn waiting(&self) -> usize {
        self.iter().map(|(_, port)| port.queue.bytes()).sum()
    }

    /// Something is there for this port.
    fn note(&mut self, slot: u32) {
        if let Some(port) = self.get_mut(slot)
            && !std::mem::replace(&mut port.is_dirty, true)
        {
            self.dirty.push_back(slot);
        }
    }
}

impl<A> Port<A> {
    #[inline]
    fn append(&mut self, frame: &[u8], from: ProcessId, attached: Option<A>) {
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
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Makes room for so many bytes, or says that there is none.
    #[cold]
    fn make_room(
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
        if limits.overflow == Overflow::Cut {
            self.cut(counters);
            return Err(Refusal::Closed);
        }
        let me = process.id;
        let mut owed = Vec::new();
        while !self.queue.has_room(bytes) {
            let dropped = self.queue.drop_oldest(|frame, _| {
                let id = frame.header.id;
                let due = match frame.header.kind {
                    Kind::Request => {
                        evicted.push(Evicted {
                            requester: frame.header.from,
                            id,
                            target: me,
                        });
                        None
                    }
                    Kind::Reply if is_bare(frame) => Some(Due::Acknowledgement),
                    Kind::Reply => Some(Due::Failure(Failure::Overflow)),
                    Kind::Failure => Some(Due::Failure(failure_of(frame))),
                    Kind::Tell => welcome_of(frame).map(Due::Welcome),
                    _ => None,
                };
                if is_message(frame) {
                    counters.lost(Lost::Overflow).add(1);
                }
                owed.extend(due.map(|what| Owed {
                    to: me,
                    from: frame.header.from,
                    id,
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

    fn owe(&mut self, owed: Owed, counters: &Counters) {
        if self.owed.len() < MOST_OWED {
            self.owed.push_back(owed);
        } else {
            counters.lost(Lost::Overflow).add(1);
        }
    }

    /// Puts what is owed into the queue, as far as there is room.
    #[inline]
    fn pay(&mut self, counters: &Counters) {
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
    fn cut(&mut self, counters: &Counters) {
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

/// Is it something that one process had to say to another?
fn is_message(frame: &Frame<'_>) -> bool {
    matches!(frame.header.kind, Kind::Event | Kind::Request | Kind::Reply)
}

/// Is nothing lost if only its id is kept?
fn is_bare(frame: &Frame<'_>) -> bool {
    frame.payload.is_empty() && frame.header.attached == Attached::Nothing
}

/// A frame of the hub itself.
pub(super) fn own_frame(kind: Kind, from: ProcessId, to: &To, id: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        space: Space::Topic,
        encoding: match kind {
            Kind::Failure => Encoding::Raw,
            _ => Encoding::Compact,
        },
        attached: Attached::Nothing,
        sequence: 0,
        from,
        id,
        deadline: 0,
    };
    let mut bytes = Vec::with_capacity(128 + payload.len());
    frame::encode(&header, to, "", &[], payload, &mut bytes);
    bytes
}

/// Tells a process something.
pub(super) fn tell_frame(hub: ProcessId, tell: &Tell) -> Vec<u8> {
    let payload = rmp_serde::to_vec_named(tell).expect("our own words can be written");
    own_frame(Kind::Tell, hub, &To::Subscribers, 0, &payload)
}

fn acknowledgement_frame(from: ProcessId, to: ProcessId, id: u64) -> Vec<u8> {
    own_frame(Kind::Reply, from, &To::from(to), id, &[])
}

fn failure_frame(from: ProcessId, to: ProcessId, id: u64, failure: Failure, text: &str) -> Vec<u8> {
    let mut payload = vec![failure as u8];
    payload.extend_from_slice(text.as_bytes());
    own_frame(Kind::Failure, from, &To::from(to), id, &payload)
}

/// What an encoded failure says.
pub(super) fn failure_of(frame: &Frame<'_>) -> Failure {
    let tag = frame.payload.first().copied().unwrap_or_default();
    Failure::from_tag(tag).unwrap_or(Failure::Refused)
}

fn welcome_of(frame: &Frame<'_>) -> Option<Tell> {
    let tell = rmp_serde::from_slice(frame.payload).ok()?;
    matches!(tell, Tell::Welcome { .. }).then_some(tell)
}
