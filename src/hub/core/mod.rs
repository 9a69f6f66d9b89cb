//! What the hub does with what it gets, pure: no sockets, no clock. Its thread reads packets from lines
//! into [`Core::receive`], and sends what then waits in the [`Core::queue`] of each
//! [`Core::next_dirty`] port.
//!
//! | file | what is there |
//! | --- | --- |
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
mod pending;
mod plan;
mod ports;
mod roster;
mod route;
#[cfg(test)]
mod tests;
mod wishes;
mod workbench;

use std::sync::Arc;

pub(crate) use self::counters::{Counter, Counters, FAILURES, Lost};
pub use self::workbench::Workbench;
use self::{
    balance::Hosts,
    hash::FastMap,
    interest::{Interest, Who},
    pending::Pending,
    plan::Plan,
    ports::{End, HubEnd, Ports, ProcessEnd, Refusal},
    roster::Roster,
};
use crate::bus::{
    Departure, MasterId, Peer, ProcessId, Role,
    control::{Tell, What},
    frame::{self, Attached, Frame, Kind, MAX_PACKET, Malformed},
    queue::Queue,
};

/// The hub's side of a line. Never means another port, even when this one is long closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PortId {
    slot: u32,
    generation: u32,
}

/// Who is at the other end of a new line.
#[derive(Debug, Clone)]
pub(crate) enum Newcomer {
    /// A process of this master.
    Process {
        /// What it is. [`Role::Master`]: this master itself, number 0.
        role: Role,
        /// Its process id.
        pid: i32,
        /// The number that it had already, before an upgrade; `None`: the next one.
        number: Option<u32>,
        /// The one above it; `None`: the master.
        parent: Option<ProcessId>,
    },
    /// The hub of another master.
    Hub(HubLink),
}

/// Where another hub stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HubLink {
    /// Its master was started by this process.
    Below(ProcessId),
    /// Its master is the one above the process that has started this one.
    Above,
    /// Met on NATS.
    Nats(MasterId),
}

/// What the hub needs to know of its own processes that nobody tells it by the bus; by number.
pub(crate) trait Loads {
    /// Open connections.
    fn load(&self, number: u32) -> u64;
    /// Has it stopped turning?
    fn is_stuck(&self, number: u32) -> bool;
}

/// What happens when too much waits for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Overflow {
    /// The oldest that waits is lost.
    #[default]
    LoseOldest,
    /// Its line is cut.
    Cut,
}

/// How much of anything there may be.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes that may wait for one process or hub.
    pub(crate) queue_bytes: usize,
    /// What happens beyond that.
    pub(crate) overflow: Overflow,
    /// Descriptors that may wait for one process or hub.
    pub(crate) attachments: usize,
    /// Requests of one process that may wait for their answers.
    pub(crate) requests: usize,
    /// Patterns that one process may subscribe to.
    pub(crate) subscriptions: usize,
    /// Applications that one process may host.
    pub(crate) applications: usize,
    /// Functions that one process may offer.
    pub(crate) functions: usize,
    /// Bytes of what is known about one process, as it travels.
    pub(crate) record_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes: 4 << 20,
            overflow: Overflow::LoseOldest,
            attachments: 64,
            requests: 65_536,
            subscriptions: 10_000,
            applications: 256,
            functions: 1_024,
            record_bytes: 32 << 10,
        }
    }
}

/// What is there, to be shown, or to be carried to another binary.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// This master.
    pub(crate) me: MasterId,
    /// The number that the next process gets: [`Core::count_from`] of the one that goes on.
    pub(crate) next_number: u32,
    /// Everybody, of all masters.
    pub(crate) peers: Vec<Peer>,
    /// The other hubs.
    pub(crate) hubs: Vec<HubLink>,
}

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
            self.tell_failure(sender, frame.header.id, crate::bus::Failure::Overflow, why);
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
        let known = self.roster.owner(owner);
        let known = known.filter(|known| known.link == Some(slot));
        if known.is_none_or(|known| known.version != version || known.gathering.is_some()) {
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

    /// What is there.
    pub(crate) fn snapshot(&self, loads: &dyn Loads) -> Snapshot {
        Snapshot {
            me: self.me,
            next_number: self.next_number,
            peers: self.peers(loads),
            hubs: self.ports.hubs().map(|(_, link)| link).collect(),
        }
    }

    fn join_process(
        &mut self,
        role: Role,
        pid: i32,
        number: Option<u32>,
        parent: Option<ProcessId>,
    ) -> (PortId, ProcessId) {
        let was_there = number.is_some();
        let number = match role {
            Role::Master => 0,
            _ => number
                .filter(|&number| number > 0)
                .unwrap_or(self.next_number),
        };
        self.next_number = self.next_number.max(number.saturating_add(1));
        let id = ProcessId {
            master: self.me,
            number,
        };
        if let Some(&slot) = self.slots.get(&number) {
            self.close_process(slot, id);
        }
        let parent = match number {
            0 => self.roster.parent(id),
            _ => Some(parent.unwrap_or(self.me.process())),
        };
        let port = self.ports.open(End::Process(ProcessEnd {
            id,
            parent,
            patterns: Default::default(),
            watches: false,
            // All, until it has made a request that this hub has seen.
            unseen_below: if was_there { u64::MAX } else { 0 },
        }));
        self.slots.insert(number, port.slot);
        self.welcome(port.slot);
        if number > 0 {
            let peer = Peer {
                id,
                role,
                parent,
                node: self.node.clone(),
                pid,
                ready: false,
                applications: Default::default(),
                functions: Vec::new(),
                load: 0,
            };
            let before = self.roster.own_mut().peers.insert(number, peer.clone());
            self.announce(What::Up(peer.clone()));
            self.show(before.as_ref(), peer);
        }
        self.settle();
        (port, id)
    }

    /// Tells a process who it is and who is above it.
    fn welcome(&mut self, slot: u32) {
        let grand_master = self.roster.grand_master();
        let above = self.roster.parent(self.me.process());
        let Some(process) = self.ports.process_mut(slot) else {
            return;
        };
        if process.id.is_master() {
            process.parent = above;
        }
        let tell = Tell::Welcome {
            you: process.id,
            parent: process.parent,
            grand_master,
        };
        self.ports
            .welcome(slot, self.me.process(), tell, &self.counters);
    }

    /// The line of a process that stays listed has ended: it hosts and offers nothing any more.
    fn withdraw(&mut self, slot: u32, id: ProcessId) {
        self.close_process(slot, id);
        self.amend(id, |peer| {
            peer.applications.clear();
            peer.functions.clear();
        })
        .ok();
    }

    /// Nothing goes to this process any more.
    fn close_process(&mut self, slot: u32, id: ProcessId) {
        self.slots.remove(&id.number);
        let Some(port) = self.ports.close(slot, &self.counters) else {
            return;
        };
        if let End::Process(process) = port.end {
            for pattern in process.patterns {
                self.unwant(&pattern, slot);
            }
        }
        self.forget_requests(|requester, _, _| requester == id);
        self.end_requests(|target| target.is_process(id));
    }

    /// Nothing comes from this hub any more, nor from those behind it.
    fn close_link(&mut self, slot: u32, why: Departure, was_above: bool) {
        let behind = self.roster.behind(slot);
        for owner in behind {
            self.lose(owner, why);
        }
        for (requester, id) in self.ports.drop_routed(slot, &self.counters) {
            let me = self.me.process();
            self.fail_request_of(requester, id, me, crate::bus::Failure::Gone, "");
        }
        self.ports.close(slot, &self.counters);
        self.forget_requests(|_, by, _| by == slot);
        if was_above {
            self.put_below(None);
        }
    }

    /// The process that is above this master is another, or none, from now on.
    fn put_below(&mut self, parent: Option<ProcessId>) {
        let me = self.me.process();
        self.amend(me, |peer| peer.parent = parent).ok();
        self.regroup();
    }

    fn unwant(&mut self, pattern: &str, slot: u32) {
        if self.interest.remove(pattern, Who::Own(slot)) {
            self.announce(What::WantsNot(pattern.to_owned()));
        }
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
            let why = crate::bus::Failure::Overflow;
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
