//! Who is there, as everybody on the bus may know it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::ProcessId;

/// How deep lists and maps may lie in each other in the description of an application: every hub that hears
/// of it has to be able to read it, and reads no deeper than twice that.
pub(crate) const DEEPEST: usize = 32;

/// Is this nested no deeper than `depth`?
pub(crate) fn is_flat(value: &serde_json::Value, depth: usize) -> bool {
    let fits = |value| depth > 0 && is_flat(value, depth - 1);
    match value {
        serde_json::Value::Array(list) => list.iter().all(fits),
        serde_json::Value::Object(map) => map.values().all(fits),
        _ => true,
    }
}

/// A process on the bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Peer {
    /// Its name on the bus.
    pub id: ProcessId,
    /// What it is.
    pub role: Role,
    /// The one above it in the tree; `None` for the grand master, and for masters that are met on NATS.
    pub parent: Option<ProcessId>,
    /// The machine, or whatever its master was told to call itself (`--node`).
    pub node: String,
    /// Its process id, on its own machine.
    pub pid: i32,
    /// Does it take connections, or whatever else it is there for?
    pub ready: bool,
    /// The applications that it hosts, each with the description that it has given.
    pub applications: BTreeMap<String, serde_json::Value>,
    /// The functions that it offers.
    pub functions: Vec<String>,
    /// Open connections; of a worker of another master, as of its last sign of life.
    pub load: u64,
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A master.
    Master,
    /// A worker.
    Worker {
        /// Its seat, from 0.
        seat: u16,
        /// How many have been born in that seat, it included.
        generation: u64,
    },
    /// Somebody who came in by the control socket.
    Guest,
}

/// Something that has happened to a process on the bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Presence {
    /// It is there.
    Online(Peer),
    /// It is ready.
    Ready(Peer),
    /// It hosts or offers something else than before.
    Changed(Peer),
    /// It is gone.
    Offline {
        /// It, as it was.
        peer: Peer,
        /// Why.
        reason: Departure,
    },
}

/// Why a process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Departure {
    /// It returned this code.
    Exit(i32),
    /// The signal with this number ended it.
    Signal(i32),
    /// It has closed its line; a guest, or a master in the tree.
    Left,
    /// It sent something that is no message, and was cut off.
    Cut,
    /// Nothing has been heard of it for too long; a master that was met on NATS, or the way there.
    Silent,
}
