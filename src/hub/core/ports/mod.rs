//! The hub's sides of all lines: what waits for each, what is numbered, what is lost.

mod frames;
mod room;

use std::collections::{HashSet, VecDeque};

pub(super) use self::frames::{failure_of, own_frame, tell_frame};
use self::{
    frames::{acknowledgement_frame, failure_frame, is_message},
    room::{Due, Owed},
};
use super::{
    HubLink, Limits, PortId,
    counters::{Counters, Lost},
    hash::Seed,
};
use crate::bus::{Failure, ProcessId, control::Tell, frame::Kind, queue::Queue};

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
