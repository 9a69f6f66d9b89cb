//! The bus: how the processes of a cluster, and of several, talk to each other.
//!
//! Every process has one *line* to the *hub*, a thread of its master. The hub knows who has subscribed to
//! what, so a process gets only what it asked for; a queue for each of them is bounded, so that nobody
//! slows anybody. Hubs of masters that started each other, or that meet on NATS, tell each other who is
//! there and what is wanted, and pass messages on.
//!
//! | file | what is there |
//! | --- | --- |
//! | `id`, `peer`, `to`, `topic`, `payload`, `error` | the words of the bus |
//! | `frame`, `control` | one message ↔ its bytes |
//! | `queue`, `line` | what waits to go through a line, and the line |
//! | `client` | a process's end: [`Bus`], and all that is said and heard with it |
//! | `stream`, `framing` | byte streams between two processes, and values on them |
//! | `branch` | masters below a process |

mod branch;
mod client;
#[doc(hidden)]
pub mod control;
mod error;
#[doc(hidden)]
pub mod frame;
mod framing;
mod id;
pub(crate) mod line;
mod payload;
pub(crate) mod peer;
pub(crate) mod queue;
mod stream;
mod to;
pub mod topic;

pub use self::{
    client::{
        Attachment, AttachmentError, Bus, Counts, Cut, Hosted, Message, Offered, Overflow,
        PresenceEvents, Subscribe, Subscription,
    },
    error::{BusError, Failure},
    frame::{Attached, Encoding, Space},
    framing::{FrameError, Framed},
    id::{MasterId, NotAnId, ProcessId},
    payload::Payload,
    peer::{Departure, Peer, Presence, Role},
    stream::Stream,
    to::{Balance, To},
};
