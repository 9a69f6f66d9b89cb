//! What processes and hubs tell each other about themselves: the payload of frames that carry no
//! message, in MessagePack.

use serde::{Deserialize, Serialize};

use super::{
    id::{MasterId, ProcessId},
    peer::{Departure, Peer, Presence},
};

/// What a process asks of its hub ([`Kind::Ask`](super::frame::Kind::Ask)). Where the frame has an id the
/// answer is a reply with an empty payload, if nothing else is said here, or a failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// To get what is published to this pattern. Twice is as good as once.
    Subscribe(String),
    /// Not to, any more.
    Unsubscribe(String),
    /// To be known as a host of this application, described so; again, to be described otherwise.
    Host(String, serde_json::Value),
    /// Not to, any more.
    Unhost(String),
    /// To be known to have this function.
    Offer(String),
    /// Not to, any more.
    Withdraw(String),
    /// To be told of comings and goings, or not any more.
    Watch(bool),
    /// Who is there? Answered by replies that each hold a `Vec<Peer>` and the last of which is empty.
    Peers,
    /// To look after the line that is attached: the hub of a master below this process is at its other
    /// end.
    Branch,
}

/// What a hub tells its process ([`Kind::Tell`](super::frame::Kind::Tell)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Tell {
    /// First of all, and again when the hub has forgotten everything, because its master has become
    /// another binary: whoever hears it asks for all that it wants once more. The sequence numbers
    /// begin anew.
    Welcome {
        /// The process itself.
        you: ProcessId,
        /// The one above it.
        parent: Option<ProcessId>,
        /// The master at the top.
        grand_master: MasterId,
    },
    /// Somebody has come, changed or gone.
    Presence(Presence),
}

/// What one hub tells another ([`Kind::Fact`](super::frame::Kind::Fact)). Each is about the processes of
/// one master, the *owner*, and is passed on unchanged to all other hubs of the tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The master that it is about.
    pub owner: MasterId,
    /// Counts the facts about this owner: one that is not newer than the last is old news.
    pub version: u64,
    /// What is so.
    pub what: What,
}

/// What is so with the processes of one master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// All that follows up to [`Complete`](Self::Complete) is all that there is: what was known before
    /// and is not said again is not so any more. Sent when hubs meet, and when one has missed something.
    Anew,
    /// See [`Anew`](Self::Anew).
    Complete,
    /// This process is there, and so. Its master's own comes first.
    Up(Peer),
    /// It is gone.
    Down(ProcessId, Departure),
    /// Somebody there wants what is published to this pattern.
    Wants(String),
    /// Nobody there does any more.
    WantsNot(String),
    /// The hub that says so cannot reach this owner any more.
    Lost(Departure),
    /// Whoever hears it is to tell all that it knows, of every owner, anew: the hub that says so has just
    /// begun, or has missed something. The owner is the one who asks; the version means nothing.
    Inquiry,
}
