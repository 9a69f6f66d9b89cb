//! What the hub does with what it gets, pure: no sockets, no clock. Its thread reads packets from lines
//! into [`Core::receive`], and sends what then waits in the [`Core::queue`] of each
//! [`Core::next_dirty`] port.

mod counters;

use std::sync::Arc;

pub(crate) use self::counters::{Counter, Counters, FAILURES, Lost};
use self::queue_alias::Queue;
use crate::bus::queue as queue_alias;
use crate::bus::{Departure, MasterId, Peer, ProcessId, Role, frame::Malformed};

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
pub(crate) struct Core<A> {
    queues: Vec<Queue<A>>,
}

#[allow(unused_variables, clippy::unused_self)]
impl<A> Core<A> {
    /// A hub whose master is `me`, runs on the machine `node` as process `pid`, and has no lines.
    pub(crate) fn new(
        me: MasterId,
        node: String,
        pid: i32,
        limits: Limits,
        counters: Arc<Counters>,
    ) -> Self {
        Self { queues: Vec::new() }
    }

    /// Processes that come get numbers from this one on.
    pub(crate) fn count_from(&mut self, number: u32) {}

    /// Somebody has a line from now on. A process gets its name, and is told so.
    pub(crate) fn join(&mut self, newcomer: Newcomer) -> (PortId, Option<ProcessId>) {
        (
            PortId {
                slot: 0,
                generation: 0,
            },
            None,
        )
    }

    /// This process of ours is ready.
    pub(crate) fn ready(&mut self, process: ProcessId) {}

    /// This process of ours has ended. Its port is closed.
    pub(crate) fn leave(&mut self, process: ProcessId, why: Departure) {}

    /// The line of this port has ended; nothing goes there any more. A guest or a hub is gone; a worker
    /// or the master stays listed until it [leaves](Self::leave). Once more does nothing.
    pub(crate) fn closed(&mut self, port: PortId) {}

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
        Ok(())
    }

    /// A packet came whose descriptor was lost on the way, as this process had no room for another:
    /// whoever waits for an answer to it is told.
    pub(crate) fn damaged(&mut self, port: PortId, packet: &[u8]) {}

    /// A port for which something waits to be sent, or that was cut by the hub ([`queue`](Self::queue)
    /// has nothing for it then: its line is to be closed). Each comes once until more is there for it.
    /// Is to be asked until it says `None`.
    pub(crate) fn next_dirty(&mut self) -> Option<PortId> {
        None
    }

    /// What waits to be sent through the line of this port. `None`: it is closed, or was cut.
    pub(crate) fn queue(&mut self, port: PortId) -> Option<&mut Queue<A>> {
        None
    }

    /// Lines that processes have asked to have looked after since the last call: each leads to the hub
    /// of a master that this process has started.
    pub(crate) fn branches(&mut self) -> Vec<(ProcessId, A)> {
        Vec::new()
    }

    /// The loads of another master's processes, by number, as it says.
    pub(crate) fn note_loads(&mut self, owner: MasterId, loads: impl Iterator<Item = (u32, u64)>) {}

    /// Everybody on the bus, of all masters, with what `loads` says of our own.
    pub(crate) fn peers(&self, loads: &dyn Loads) -> Vec<Peer> {
        Vec::new()
    }

    /// What is there.
    pub(crate) fn snapshot(&self, loads: &dyn Loads) -> Snapshot {
        Snapshot {
            me: MasterId(0),
            next_number: 1,
            peers: Vec::new(),
            hubs: Vec::new(),
        }
    }
}
