//! The hub: the middle of the bus, a thread of the master.
//!
//! It is not the control runtime: a flood of messages must not keep the supervisor, the admin page or
//! the dispatcher waiting. Nor may anything that goes wrong on the bus cost a connection: should the
//! hub ever panic, that is said and counted, everybody's bus is closed, and serving goes on.
//!
//! | file | what is there |
//! | --- | --- |
//! | `core` | who gets what; pure |
//! | `lines` | the lines to processes and other hubs, and what goes through them |
//! | `nats` | the way to masters that were met on NATS |
//! | `thread` | the thread: orders, and its end |
//! | `tally` | what the hub has counted, carried on |
//! | `handle` | what the rest of the master asks of the hub |
//! | `ends` | tests of the core with processes' real ends |

pub(crate) mod core;
#[cfg(test)]
mod ends;
mod handle;
mod lines;
pub(crate) mod nats;
mod tally;
#[cfg(test)]
mod tests;
mod thread;

#[doc(hidden)]
pub use self::core::Workbench;
pub(crate) use self::{
    core::{FAILURES, Lost},
    handle::{Carried, CarriedLine, HubHandle, Whose},
    tally::Tally,
    thread::{Plan, start},
};
