//! The words between the core and whoever carries its packets.

use crate::{
    bus::{MasterId, ProcessId, Role},
    config::BusOverflow,
};

/// The hub's side of a line. Never means another port, even when this one is long closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PortId {
    pub(super) slot: u32,
    pub(super) generation: u32,
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

/// How much of anything there may be.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes that may wait for one process or hub.
    pub(crate) queue_bytes: usize,
    /// What happens beyond that.
    pub(crate) overflow: BusOverflow,
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
            overflow: BusOverflow::default(),
            attachments: 64,
            requests: 65_536,
            subscriptions: 10_000,
            applications: 256,
            functions: 1_024,
            record_bytes: 32 << 10,
        }
    }
}
