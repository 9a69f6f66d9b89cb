//! To whom a message goes.

use super::id::ProcessId;

/// To whom a message goes. Whoever it names gets it if it listens to the message's topic; nobody gets
/// it twice.
///
/// The tree: a master's children are its workers, and those who came in by its control socket. A
/// worker's children are the masters that it has started ([`Bus::branch`](super::Bus::branch)). The
/// master at the top is the grand master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum To {
    /// Whoever has subscribed, wherever they are; the sender too, if it has.
    Subscribers,
    /// Everybody but the sender.
    Everyone,
    /// The other children of the sender's parent.
    Siblings,
    /// The sender's parent, its parent, and so on to the grand master.
    Ancestors,
    /// The process one up in the tree.
    Parent,
    /// The sender's own children; a worker that has started no master has none.
    Children,
    /// The worker that is in this seat now, of the sender's master. A successor is from when it is ready,
    /// or when there is nobody else.
    Worker(u16),
    /// The master at the top of the tree.
    GrandMaster,
    /// These, at most 64.
    Processes(Vec<ProcessId>),
    /// The last of these, by way of the others, at most 16: each must know the next.
    Route(Vec<ProcessId>),
    /// One of those that host the application that the message is for: the sender itself if it does, else
    /// one of its master's, else one elsewhere.
    Host(Balance),
}

impl From<ProcessId> for To {
    fn from(process: ProcessId) -> Self {
        Self::Processes(vec![process])
    }
}

/// Which of several processes that host an application gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Balance {
    /// The one with the fewest open connections; in turn among equals.
    #[default]
    LeastLoaded = 0,
    /// Each in turn.
    RoundRobin = 1,
    /// Any.
    Random = 2,
}
