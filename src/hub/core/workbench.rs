//! A core on the bench: what the hub does for a message, without its lines.

use std::sync::Arc;

use super::{Core, Counters, Limits, Loads, Newcomer, PortId};
use crate::bus::{
    Encoding, MasterId, ProcessId, Role, To,
    control::Ask,
    frame::{self, Attached, Header, Kind, Space},
};

/// A hub with a few processes that do not exist.
#[derive(Debug)]
pub struct Workbench {
    core: Core<()>,
    processes: Vec<(PortId, ProcessId)>,
    /// Events in one packet, as a publisher's line brings them.
    events: Vec<u8>,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// Nobody is busy.
struct Idle;

impl Loads for Idle {
    fn load(&self, _: u32) -> u64 {
        0
    }

    fn is_stuck(&self, _: u32) -> bool {
        false
    }
}

const TOPIC: &str = "bench.said";

impl Workbench {
    /// One process that publishes `events` messages of so many bytes in a packet, `to` whoever it says, and
    /// others that have subscribed.
    pub fn new(subscribers: u16, events: usize, payload: usize, to: &To) -> Self {
        let me = MasterId(1);
        let counters = Arc::new(Counters::default());
        let mut bench = Self {
            core: Core::new(me, "bench".into(), 1, Limits::default(), counters),
            processes: Vec::new(),
            events: Vec::new(),
            request: Vec::new(),
            reply: Vec::new(),
        };
        for seat in 0..=subscribers {
            let (port, id) = bench.core.join(Newcomer::Process {
                role: Role::Worker {
                    seat,
                    generation: 1,
                },
                pid: 1,
                number: None,
                parent: None,
            });
            bench
                .processes
                .push((port, id.expect("processes have names")));
        }
        for seat in 1..=usize::from(subscribers) {
            bench.subscribe(seat, TOPIC);
        }
        for _ in 0..events {
            write(Kind::Event, to, 0, payload, &mut bench.events);
        }
        let [(_, asks), (_, answers), ..] = bench.processes[..] else {
            return bench;
        };
        write(
            Kind::Request,
            &answers.into(),
            1,
            payload,
            &mut bench.request,
        );
        write(Kind::Reply, &asks.into(), 1, payload, &mut bench.reply);
        bench.drain();
        bench
    }

    /// Routes the packet of events, and takes what then waits out of the queues. Returns how many bytes
    /// that was.
    pub fn publish(&mut self) -> usize {
        let events = std::mem::take(&mut self.events);
        self.take_in(0, &events);
        self.events = events;
        self.drain()
    }

    /// Routes a request of the first process to the second, and its reply.
    pub fn request(&mut self) -> usize {
        let (request, reply) = (
            std::mem::take(&mut self.request),
            std::mem::take(&mut self.reply),
        );
        self.take_in(0, &request);
        let there = self.drain();
        self.take_in(1, &reply);
        let back = self.drain();
        (self.request, self.reply) = (request, reply);
        there + back
    }

    /// Subscribes a process to a pattern.
    pub fn subscribe(&mut self, process: usize, pattern: &str) {
        self.ask(process, &Ask::Subscribe(pattern.to_owned()));
    }

    /// Ends that.
    pub fn unsubscribe(&mut self, process: usize, pattern: &str) {
        self.ask(process, &Ask::Unsubscribe(pattern.to_owned()));
    }

    fn ask(&mut self, process: usize, ask: &Ask) {
        let payload = rmp_serde::to_vec_named(ask).expect("our own words can be written");
        let mut packet = Vec::new();
        let header = header(Kind::Ask, 0);
        frame::encode(&header, &To::Parent, "", &[], &payload, &mut packet);
        self.take_in(process, &packet);
    }

    fn take_in(&mut self, process: usize, packet: &[u8]) {
        let (port, _) = self.processes[process];
        let taken = self.core.receive(port, packet, None, 1, &Idle);
        taken.expect("the bench speaks as a process does");
    }

    fn drain(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(port) = self.core.next_dirty() {
            let queue = self.core.queue(port).expect("nobody is cut");
            while let Some((packet, _)) = queue.front() {
                bytes += packet.len();
                queue.pop();
            }
        }
        bytes
    }
}

fn header(kind: Kind, id: u64) -> Header {
    Header {
        kind,
        space: Space::Topic,
        encoding: Encoding::Raw,
        attached: Attached::Nothing,
        sequence: 0,
        from: MasterId(0).process(),
        id,
        deadline: 0,
    }
}

fn write(kind: Kind, to: &To, id: u64, payload: usize, packet: &mut Vec<u8>) {
    frame::encode(
        &header(kind, id),
        to,
        TOPIC,
        &[],
        &vec![b'x'; payload],
        packet,
    );
}
