//! What the hub does with what it gets, pure: no sockets, no clock. Its thread reads packets from lines
//! into [`Core::receive`], and sends what then waits in the [`Core::queue`] of each
//! [`Core::next_dirty`] port.
//!
//! | file | what is there |
//! | --- | --- |
//! | `wishes` | what of all that is told to another binary |
//! | `words` | what is said between the core and its thread |
//! | `life` | how processes and hubs come and go |
//! | `route` | a message, from its sender to all queues that it belongs in |
//! | `plan` | to whom that is, from the address and from who wants it |
//! | `answers` | replies, failures, and whoever waits for them |
//! | `asks` | what a process wants of its hub |
//! | `facts` | what hubs tell each other, what processes are told of it |
//! | `ports` | the hub's sides of all lines, what waits there and what is lost |
//! | `interest`, `roster`, `pending`, `balance` | what is known: wants, processes, requests, hosts |

mod answers;
mod asks;
mod balance;
mod counters;
mod facts;
mod hash;
mod interest;
mod life;
mod pending;
mod plan;
mod ports;
mod roster;
mod route;
#[cfg(test)]
mod tests;
mod wishes;
mod words;
mod workbench;

use std::sync::Arc;

pub(crate) use self::counters::{Counter, Counters, FAILURES, Lost};
pub(crate) use self::words::{HubLink, Limits, Loads, Newcomer, PortId};
pub use self::workbench::Workbench;
use self::{
    balance::Hosts,
    hash::FastMap,
    interest::Interest,
    pending::Pending,
    plan::Plan,
    ports::{End, HubEnd, Ports, Refusal},
    roster::Roster,
};
use crate::bus::{
    Departure, Failure, MasterId, Peer, ProcessId, Role,
    control::What,
    frame::{self, Attached, Frame, Kind, MAX_PACKET, Malformed},
    queue::Queue,
};

/// The hub. `A` is what may be attached to a message: a descriptor, in life.
#[derive(Debug)]
pub(crate) struct Core<A> {
    me: MasterId,
    node: String,
    limits: Limits,
    counters: Arc<Counters>,
    ports: Ports<A>,
    /// Our processes that have a line, by number: the slots of their ports.
    slots: FastMap<u32, u32>,
    roster: Roster,
    interest: Interest,
    pending: Pending,
    hosts: Hosts,
    next_number: u32,
    /// What our processes have been told: who is above this master, and who at the top.
    told: (Option<ProcessId>, MasterId),
    branches: Vec<(ProcessId, A)>,
    /// Kept for their memory.
    scratch: Vec<u8>,
    plan: Plan,
    /// Counted since the packet came, for [`Counters`].
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    received: u64,
    delivered: u64,
    bytes: u64,
}

impl<A> Core<A> {
    /// A hub whose master is `me`, runs on the machine `node` as process `pid`, and has no lines.
    pub(crate) fn new(
        me: MasterId,
        mut node: String,
        pid: i32,
        mut limits: Limits,
        counters: Arc<Counters>,
    ) -> Self {
        while node.len() > 255 {
            node.pop();
        }
        limits.queue_bytes = limits.queue_bytes.max(MAX_PACKET);
        let master = Peer {
            id: me.process(),
            role: Role::Master,
            parent: None,
            node: node.clone(),
            pid,
            ready: true,
            applications: Default::default(),
            functions: Vec::new(),
            load: 0,
        };
        counters.processes.set(1);
        Self {
            me,
            node,
            ports: Ports::new(limits.clone()),
            limits,
            counters,
            slots: FastMap::default(),
            roster: Roster::new(master),
            interest: Interest::default(),
            pending: Pending::default(),
            hosts: Hosts::new(me),
            next_number: 1,
            told: (None, me),
            branches: Vec::new(),
            scratch: Vec::new(),
            plan: Plan::default(),
            tally: Tally::default(),
        }
    }

    /// Processes that come get numbers from this one on, at the least.
    pub(crate) fn count_from(&mut self, number: u32) {
        self.next_number = self.next_number.max(number);
    }

    /// Somebody has a line from now on. A process gets its name, and is told so.
    pub(crate) fn join(&mut self, newcomer: Newcomer) -> (PortId, Option<ProcessId>) {
        match newcomer {
            Newcomer::Process {
                role,
                pid,
                number,
                parent,
            } => {
                let (port, id) = self.join_process(role, pid, number, parent);
                (port, Some(id))
            }
            Newcomer::Hub(link) => {
                let port = self.ports.open(End::Hub(HubEnd {
                    link,
                    expected: 1,
                    asked: false,
                }));
                self.greet(port.slot);
                self.settle();
                (port, None)
            }
        }
    }

    /// This process of ours is ready.
    pub(crate) fn ready(&mut self, process: ProcessId) {
        if process.master != self.me {
            return;
        }
        let Some(peer) = self.roster.own_mut().peers.get_mut(&process.number) else {
            return;
        };
        let before = peer.clone();
        peer.ready = true;
        let peer = peer.clone();
        if !before.ready {
            self.announce(What::Up(peer.clone()));
            self.show(Some(&before), peer);
        }
        self.settle();
    }

    /// This process of ours has ended. Its port is closed. What it has sent before is to be
    /// [received](Self::receive) first.
    pub(crate) fn leave(&mut self, process: ProcessId, why: Departure) {
        if process.master != self.me || process.is_master() {
            return;
        }
        if let Some(&slot) = self.slots.get(&process.number) {
            self.close_process(slot, process);
        }
        if let Some(peer) = self.roster.own_mut().peers.remove(&process.number) {
            self.announce(What::Down(process, why));
            self.mourn(peer, why);
        }
        self.settle();
    }

    /// The line of this port has ended; nothing goes there any more. A guest or a hub is gone; a worker
    /// or the master stays listed until it [leaves](Self::leave). Once more does nothing.
    pub(crate) fn closed(&mut self, port: PortId) {
        let Some(slot) = self.ports.slot(port) else {
            return;
        };
        let Some(here) = self.ports.get(slot) else {
            return;
        };
        let was_cut = here.is_malformed || here.is_cut();
        match &here.end {
            End::Process(process) => {
                let id = process.id;
                let why = if was_cut {
                    Departure::Cut
                } else {
                    Departure::Left
                };
                match self.roster.peer(id).map(|peer| peer.role) {
                    Some(Role::Guest) => self.leave(id, why),
                    _ => self.withdraw(slot, id),
                }
            }
            End::Hub(hub) => {
                let why = match hub.link {
                    _ if was_cut => Departure::Cut,
                    HubLink::Nats(_) => Departure::Silent,
                    HubLink::Below(_) | HubLink::Above => Departure::Left,
                };
                let was_above = hub.link == HubLink::Above;
                self.close_link(slot, why, was_above);
            }
        }
        self.settle();
    }

    /// Takes in a packet that came through the line of `port`, with its descriptor, at `now` on the
    /// monotonic clock, in nanoseconds. A port that is closed is not listened to.
    ///
    /// # Errors
    /// It is no packet: the line is to be cut, and [`closed`](Self::closed) told.
    pub(crate) fn receive(
        &mut self,
        port: PortId,
        packet: &[u8],
        attached: Option<A>,
        now: u64,
        loads: &dyn Loads,
    ) -> Result<(), Malformed> {
        let Some(slot) = self.ports.slot(port) else {
            return Ok(());
        };
        let here = self
            .ports
            .get(slot)
            .expect("the slot of a port that is open");
        if here.is_malformed || here.is_cut() {
            return Ok(());
        }
        let taken = match &here.end {
            End::Process(process) => {
                let sender = process.id;
                self.take_packet(packet, attached, |core, frame, attached| {
                    core.take_from_process(slot, sender, frame, attached, now, loads)
                })
            }
            End::Hub(hub) => {
                let link = hub.link;
                self.take_packet(packet, attached, |core, frame, attached| {
                    core.take_from_hub(slot, link, frame, attached, now)
                })
            }
        };
        if taken.is_err() {
            self.counters.malformed.add(1);
            if let Some(port) = self.ports.get_mut(slot) {
                port.is_malformed = true;
            }
        }
        self.settle();
        taken
    }

    /// A packet came whose descriptor was lost on the way, as this process had no room for another:
    /// whoever waits for an answer to it is told. It is the packet's only frame.
    pub(crate) fn damaged(&mut self, port: PortId, packet: &[u8]) {
        self.counters.lost(Lost::Attachment).add(1);
        if let Some(slot) = self.ports.slot(port)
            && let Some(sender) = self.ports.process(slot).map(|process| process.id)
            && let Ok(frame) = frame::decode(packet)
            && frame.header.id != 0
            && matches!(frame.header.kind, Kind::Request | Kind::Ask)
        {
            let why = "the hub has no room for another descriptor";
            self.tell_failure(sender, frame.header.id, Failure::Overflow, why);
        }
        self.settle();
    }

    /// A port for which something waits to be sent, or that was cut by the hub ([`queue`](Self::queue)
    /// has nothing for it then: its line is to be closed). Each comes once until more is there for it.
    /// Is to be asked until it says `None`.
    pub(crate) fn next_dirty(&mut self) -> Option<PortId> {
        let port = self.ports.next_dirty();
        if port.is_none() {
            self.counters.queued_bytes.set(self.ports.waiting() as u64);
        }
        port
    }

    /// What waits to be sent through the line of this port. `None`: it is closed, or was cut.
    pub(crate) fn queue(&mut self, port: PortId) -> Option<&mut Queue<A>> {
        self.ports.queue(port, &self.counters)
    }

    /// Lines that processes have asked to have looked after since the last call: each leads to the hub
    /// of a master that this process has started.
    pub(crate) fn branches(&mut self) -> Vec<(ProcessId, A)> {
        std::mem::take(&mut self.branches)
    }

    /// The loads of another master's processes, by number, as it says.
    pub(crate) fn note_loads(&mut self, owner: MasterId, loads: impl Iterator<Item = (u32, u64)>) {
        let Some(owner) = self.roster.owner_mut(owner) else {
            return;
        };
        for (number, load) in loads {
            if let Some(peer) = owner.peers.get_mut(&number) {
                peer.load = load;
            }
        }
    }

    /// The version of what this hub says of its own processes.
    pub(crate) fn version(&self) -> u64 {
        self.roster.own().version
    }

    /// A master that was met on NATS says that its facts have this version by now: where something was
    /// missed it is asked for everything. To be called at most once for each of its signs of life.
    pub(crate) fn heard(&mut self, port: PortId, owner: MasterId, version: u64) {
        let Some(slot) = self.ports.slot(port) else {
            return;
        };
        let up_to_date = self.roster.owner(owner).is_some_and(|known| {
            // What is known by another way is none of this one's business.
            known.link != Some(slot) || (known.version == version && known.gathering.is_none())
        });
        if !up_to_date {
            if let Some(hub) = self.ports.hub_mut(slot) {
                hub.asked = false;
            }
            self.inquire(slot);
        }
    }

    /// Everybody on the bus, of all masters, with what `loads` says of our own.
    pub(crate) fn peers(&self, loads: &dyn Loads) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.roster.peers().cloned().collect();
        for peer in &mut peers {
            if peer.id.master == self.me {
                peer.load = loads.load(peer.id.number);
            }
        }
        peers
    }

    /// Takes a packet apart.
    fn take_packet(
        &mut self,
        packet: &[u8],
        mut attached: Option<A>,
        mut take: impl FnMut(&mut Self, &Frame<'_>, Option<A>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for frame in frame::frames(packet) {
            let frame = frame?;
            let own = match frame.header.attached {
                Attached::Nothing => None,
                // A frame with something attached comes alone.
                _ if frame.bytes.len() != packet.len() => return Err(Malformed::Attached),
                _ => Some(attached.take().ok_or(Malformed::Attached)?),
            };
            take(self, &frame, own)?;
        }
        match attached {
            Some(_) => Err(Malformed::Attached),
            None => Ok(()),
        }
    }

    /// Puts an encoded frame into a queue, and counts it.
    #[inline]
    fn push(
        &mut self,
        slot: u32,
        frame: &[u8],
        from: ProcessId,
        attached: Option<A>,
    ) -> Result<(), Refusal> {
        self.ports
            .push(slot, frame, from, attached, &self.counters)?;
        self.tally.delivered += 1;
        self.tally.bytes += frame.len() as u64;
        Ok(())
    }

    /// Does what is left to do after each call: fails what had to make room, and counts.
    fn settle(&mut self) {
        while let Some(evicted) = self.ports.next_evicted() {
            let why = Failure::Overflow;
            self.fail_request_of(evicted.requester, evicted.id, evicted.target, why, "");
        }
        let tally = std::mem::take(&mut self.tally);
        self.counters.received.add(tally.received);
        self.counters.delivered.add(tally.delivered);
        self.counters.bytes.add(tally.bytes);
        self.counters.processes.set(self.roster.count() as u64);
        self.counters.hubs.set(self.ports.hubs().count() as u64);
    }

    /// The links that something which came by one of them, or from here, may be passed on to.
    fn links_beyond(&self, came_by: Option<u32>) -> impl Iterator<Item = u32> {
        let from = came_by.and_then(|slot| self.ports.link(slot));
        let met = matches!(from, Some(HubLink::Nats(_)));
        let others = self.ports.hubs().filter(move |(slot, link)| {
            Some(*slot) != came_by && !(met && matches!(link, HubLink::Nats(_)))
        });
        others.map(|(slot, _)| slot)
    }

    /// May something that came by one link go on by the other? Those who meet on NATS hear each other.
    fn may_cross(&self, came_by: u32, to: u32) -> bool {
        let met = |slot| matches!(self.ports.link(slot), Some(HubLink::Nats(_)));
        came_by != to && !(met(came_by) && met(to))
    }
}
