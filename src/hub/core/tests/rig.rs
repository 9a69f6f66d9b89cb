//! Hubs and processes without sockets: packets are carried by hand from queue to core.

use std::sync::Arc;

use super::super::{Core, Counters, HubLink, Limits, Loads, Newcomer, PortId};
use crate::bus::{
    Departure, Encoding, Failure, MasterId, Peer, Presence, ProcessId, Role, To,
    control::{Ask, Tell},
    frame::{self, Attached, Header, Kind, Malformed, Space},
};

/// Nobody has any load, but those who were given one; whoever has `STUCK` does not turn.
#[derive(Debug, Default)]
pub(super) struct Given(pub(super) std::collections::BTreeMap<u32, u64>);

pub(super) const STUCK: u64 = u64::MAX;

impl Loads for Given {
    fn load(&self, number: u32) -> u64 {
        self.0.get(&number).copied().unwrap_or_default()
    }

    fn is_stuck(&self, number: u32) -> bool {
        self.load(number) == STUCK
    }
}

/// Several hubs and their processes.
#[derive(Default)]
pub(super) struct Net {
    pub(super) hubs: Vec<Hub>,
    pub(super) processes: Vec<Process>,
    wires: Vec<Wire>,
    pub(super) now: u64,
    pub(super) loads: Given,
    next_id: u64,
}

pub(super) struct Hub {
    pub(super) core: Core<u32>,
    pub(super) counters: Arc<Counters>,
    pub(super) id: MasterId,
}

/// A process: what it has got.
pub(super) struct Process {
    pub(super) hub: usize,
    pub(super) port: PortId,
    pub(super) id: ProcessId,
    pub(super) got: Vec<Got>,
    /// Told by sequence numbers.
    pub(super) missed: u64,
    expected: u64,
    /// It does not read.
    pub(super) is_stopped: bool,
    pub(super) is_gone: bool,
    pub(super) was_cut: bool,
}

/// A frame that came.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) header: Header,
    pub(super) to: To,
    pub(super) path: Vec<MasterId>,
    pub(super) payload: Vec<u8>,
    pub(super) attached: Option<u32>,
}

/// Two ports of two hubs.
struct Wire {
    ends: [(usize, PortId); 2],
    is_cut: bool,
}

impl Got {
    pub(super) fn failure(&self) -> Option<Failure> {
        let is_one = self.header.kind == Kind::Failure;
        is_one.then(|| Failure::from_tag(self.payload[0]).unwrap())
    }

    pub(super) fn tell(&self) -> Option<Tell> {
        let is_one = self.header.kind == Kind::Tell;
        is_one.then(|| rmp_serde::from_slice(&self.payload).unwrap())
    }
}

/// A frame as a process sends it.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) space: Space,
    pub(super) to: To,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) id: u64,
    pub(super) deadline: u64,
    pub(super) attached: Attached,
}

impl Draft {
    pub(super) fn event(to: impl Into<To>, topic: &str, payload: &[u8]) -> Self {
        Self {
            kind: Kind::Event,
            space: Space::Topic,
            to: to.into(),
            name: topic.to_owned(),
            payload: payload.to_vec(),
            id: 0,
            deadline: 0,
            attached: Attached::Nothing,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let header = Header {
            kind: self.kind,
            space: self.space,
            encoding: Encoding::Raw,
            attached: self.attached,
            sequence: 0,
            // A lie: it has to be put right.
            from: MasterId(666).process(),
            id: self.id,
            deadline: self.deadline,
        };
        let mut bytes = Vec::new();
        frame::encode(
            &header,
            &self.to,
            &self.name,
            &[],
            &self.payload,
            &mut bytes,
        );
        bytes
    }
}

impl Net {
    pub(super) fn hub(&mut self) -> usize {
        self.hub_with(Limits::default())
    }

    pub(super) fn hub_with(&mut self, limits: Limits) -> usize {
        let counters = Arc::new(Counters::default());
        let id = MasterId(100 + self.hubs.len() as u64);
        let core = Core::new(id, "here".into(), 1, limits, counters.clone());
        self.hubs.push(Hub { core, counters, id });
        self.hubs.len() - 1
    }

    pub(super) fn join(&mut self, hub: usize, newcomer: Newcomer) -> usize {
        let (port, id) = self.hubs[hub].core.join(newcomer);
        self.processes.push(Process {
            hub,
            port,
            id: id.unwrap(),
            got: Vec::new(),
            missed: 0,
            expected: 1,
            is_stopped: false,
            is_gone: false,
            was_cut: false,
        });
        self.processes.len() - 1
    }

    pub(super) fn worker(&mut self, hub: usize, seat: u16) -> usize {
        let generation = self.processes.len() as u64;
        let role = Role::Worker { seat, generation };
        self.join(hub, newcomer(role))
    }

    pub(super) fn guest(&mut self, hub: usize) -> usize {
        self.join(hub, newcomer(Role::Guest))
    }

    pub(super) fn master(&mut self, hub: usize) -> usize {
        self.join(hub, newcomer(Role::Master))
    }

    pub(super) fn id(&self, process: usize) -> ProcessId {
        self.processes[process].id
    }

    /// Wires the hub `below`, whose master this process has started, to that of the process.
    pub(super) fn branch(&mut self, process: usize, below: usize) -> usize {
        let (hub, id) = (self.processes[process].hub, self.processes[process].id);
        let (port, _) = self.hubs[hub].core.join(Newcomer::Hub(HubLink::Below(id)));
        let (uplink, _) = self.hubs[below].core.join(Newcomer::Hub(HubLink::Above));
        self.wire([(hub, port), (below, uplink)])
    }

    /// Two hubs meet on NATS.
    pub(super) fn meet(&mut self, one: usize, other: usize) -> usize {
        let (here, there) = (self.hubs[one].id, self.hubs[other].id);
        let (port, _) = self.hubs[one]
            .core
            .join(Newcomer::Hub(HubLink::Nats(there)));
        let (back, _) = self.hubs[other]
            .core
            .join(Newcomer::Hub(HubLink::Nats(here)));
        self.wire([(one, port), (other, back)])
    }

    pub(super) fn wire(&mut self, ends: [(usize, PortId); 2]) -> usize {
        self.wires.push(Wire {
            ends,
            is_cut: false,
        });
        self.wires.len() - 1
    }

    pub(super) fn cut(&mut self, wire: usize) {
        self.wires[wire].is_cut = true;
        for (hub, port) in self.wires[wire].ends {
            self.hubs[hub].core.closed(port);
        }
    }

    pub(super) fn end_of(&self, wire: usize, end: usize) -> (usize, PortId) {
        self.wires[wire].ends[end]
    }

    pub(super) fn leave(&mut self, process: usize, why: Departure) {
        let Process { hub, id, .. } = self.processes[process];
        self.processes[process].is_gone = true;
        self.hubs[hub].core.leave(id, why);
    }

    /// Sends bytes as this process.
    pub(super) fn raw(
        &mut self,
        process: usize,
        packet: &[u8],
        attached: Option<u32>,
    ) -> Result<(), Malformed> {
        let Process { hub, port, .. } = self.processes[process];
        let core = &mut self.hubs[hub].core;
        core.receive(port, packet, attached, self.now, &self.loads)
    }

    pub(super) fn send(&mut self, process: usize, draft: &Draft) {
        self.raw(process, &draft.encode(), None).unwrap();
    }

    pub(super) fn publish(
        &mut self,
        process: usize,
        to: impl Into<To>,
        topic: &str,
        payload: &[u8],
    ) {
        self.send(process, &Draft::event(to, topic, payload));
    }

    /// Sends a request; its id.
    pub(super) fn request(&mut self, process: usize, to: impl Into<To>, topic: &str) -> u64 {
        self.next_id += 1;
        let mut draft = Draft::event(to, topic, b"?");
        draft.kind = Kind::Request;
        draft.id = self.next_id;
        self.send(process, &draft);
        self.next_id
    }

    /// Answers a request that came.
    pub(super) fn reply(&mut self, process: usize, request: &Got, payload: &[u8]) {
        let mut draft = Draft::event(request.header.from, "", payload);
        draft.kind = Kind::Reply;
        draft.id = request.header.id;
        self.send(process, &draft);
    }

    /// Refuses it.
    pub(super) fn refuse(&mut self, process: usize, request: &Got) {
        let mut draft = Draft::event(request.header.from, "", &[Failure::Refused as u8]);
        draft.kind = Kind::Failure;
        draft.id = request.header.id;
        self.send(process, &draft);
    }

    /// Asks the hub; the id of the answer.
    pub(super) fn ask(&mut self, process: usize, ask: &Ask) -> u64 {
        self.next_id += 1;
        let mut draft = Draft::event(To::Subscribers, "", &rmp_serde::to_vec_named(ask).unwrap());
        draft.kind = Kind::Ask;
        draft.id = self.next_id;
        self.send(process, &draft);
        self.next_id
    }

    pub(super) fn subscribe(&mut self, process: usize, pattern: &str) {
        self.ask(process, &Ask::Subscribe(pattern.to_owned()));
    }

    /// Carries packets until nothing moves.
    pub(super) fn pump(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for hub in 0..self.hubs.len() {
                while let Some(port) = self.hubs[hub].core.next_dirty() {
                    moved = true;
                    self.drain(hub, port);
                }
            }
        }
    }

    /// A stopped process reads again.
    pub(super) fn wake(&mut self, process: usize) {
        self.processes[process].is_stopped = false;
        let Process { hub, port, .. } = self.processes[process];
        self.drain(hub, port);
        self.pump();
    }

    fn drain(&mut self, hub: usize, port: PortId) {
        let process = self
            .processes
            .iter()
            .position(|one| one.hub == hub && one.port == port);
        if let Some(process) = process {
            return self.read(process);
        }
        let at = |wire: &Wire| wire.ends.iter().position(|end| *end == (hub, port));
        let Some((wire, end)) = self.wires.iter().find_map(|wire| Some((wire, at(wire)?))) else {
            return;
        };
        if wire.is_cut {
            return;
        }
        let (there, far) = wire.ends[1 - end];
        while let Some((packet, attached)) = self.hubs[hub].core.queue(port).and_then(next) {
            let core = &mut self.hubs[there].core;
            core.receive(far, &packet, attached, self.now, &self.loads)
                .unwrap();
        }
    }

    fn read(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let core = &mut self.hubs[process.hub].core;
        if process.is_gone || core.queue(process.port).is_none() {
            process.was_cut |= !process.is_gone;
            return;
        }
        while !process.is_stopped
            && let Some((packet, attached)) = core.queue(process.port).and_then(next)
        {
            let mut attached = attached;
            for frame in frame::frames(&packet) {
                let frame = frame.unwrap();
                let got = Got {
                    header: frame.header,
                    to: To::decode(frame.to).unwrap(),
                    path: frame.masters().collect(),
                    payload: frame.payload.to_vec(),
                    attached: attached.take(),
                };
                if matches!(got.tell(), Some(Tell::Welcome { .. })) {
                    assert_eq!(frame.header.sequence, 1);
                    process.expected = 1;
                }
                let sequence = frame.header.sequence;
                assert!(sequence >= process.expected, "backwards: {got:?}");
                process.missed += sequence - process.expected;
                process.expected = sequence + 1;
                process.got.push(got);
            }
        }
    }

    /// What a process has got of this kind since the last time, and forgets the rest.
    pub(super) fn take(&mut self, process: usize, kind: Kind) -> Vec<Got> {
        let got = std::mem::take(&mut self.processes[process].got);
        got.into_iter()
            .filter(|one| one.header.kind == kind)
            .collect()
    }

    /// The payloads of the events that each of these has got.
    pub(super) fn events(&mut self, process: usize) -> Vec<String> {
        let got = self.take(process, Kind::Event);
        let text = |one: Got| String::from_utf8(one.payload).unwrap();
        got.into_iter().map(text).collect()
    }

    /// Who has got an event since the last time; each of them only one.
    pub(super) fn reached(&mut self) -> Vec<usize> {
        self.pump();
        let mut reached = Vec::new();
        for process in 0..self.processes.len() {
            match self.events(process).len() {
                0 => {}
                1 => reached.push(process),
                more => panic!("process {process} got it {more} times"),
            }
        }
        reached
    }

    pub(super) fn presence(&mut self, process: usize) -> Vec<Presence> {
        let got = self.take(process, Kind::Tell);
        let tells = got.iter().filter_map(Got::tell);
        tells
            .filter_map(|tell| match tell {
                Tell::Presence(presence) => Some(presence),
                Tell::Welcome { .. } => None,
            })
            .collect()
    }

    /// Everybody, as this hub knows them, without loads.
    pub(super) fn peers(&self, hub: usize) -> Vec<Peer> {
        self.hubs[hub].core.peers(&Given::default())
    }
}

fn next(queue: &mut crate::bus::queue::Queue<u32>) -> Option<(Vec<u8>, Option<u32>)> {
    let (packet, attached) = queue.front()?;
    let taken = (packet.to_vec(), attached.copied());
    queue.pop();
    Some(taken)
}

fn newcomer(role: Role) -> Newcomer {
    Newcomer::Process {
        role,
        pid: 7,
        number: None,
        parent: None,
    }
}
