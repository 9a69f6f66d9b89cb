//! What comes along with a socket that another process has moved here.

use crate::bus::{Payload, ProcessId};

/// What another process has sent along with a connection or a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    from: ProcessId,
    message: Payload,
}

impl Moved {
    pub(crate) fn new(from: ProcessId, message: Payload) -> Self {
        Self { from, message }
    }

    /// Who has sent it, as the master of that process says.
    pub fn from(&self) -> ProcessId {
        self.from
    }

    /// What it has to say about it; empty if nothing.
    pub fn message(&self) -> &Payload {
        &self.message
    }
}
