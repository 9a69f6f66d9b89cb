//! The hub's way to other masters, through NATS.
//!
//! Each master has one subject on which it is spoken to, `<prefix>.hub.<master>`, and all share another,
//! `<prefix>.hubs`, on which each says at every beat that it is there. One subject for all that is said to
//! a master keeps what one says to another in order.
//!
//! Whatever comes in can do no more than come to somebody who has subscribed, hosts or offers: it goes into
//! the hub's core as what another hub says, and nothing else here listens to it.
//!
//! | file | what is there |
//! | --- | --- |
//! | `envelope` | what goes through NATS; pure |
//! | `roster` | which masters are there, and what of theirs is to be believed; pure |
//! | `secrets` | files that hold secrets |
//! | `sitting`, `thread` | one connection, and one after the other |
//! | `bridge` | between the hub and that thread |
//! | `counters` | what is counted |

mod bridge;
mod counters;
mod envelope;
mod roster;
mod secrets;
mod sitting;
mod thread;

#[cfg(test)]
#[path = "../../../tests/harness/nats.rs"]
mod server;
#[cfg(test)]
mod tests;

pub(super) use self::bridge::meet;
pub(crate) use self::{counters::Counters, envelope::Dropped};
use crate::{config::BusOptions, error::Result};

/// Looks whether all files that `options` names are there, hold what they should, and are hidden from
/// others.
///
/// # Errors
/// The first that is not.
pub(crate) fn check(options: &BusOptions) -> Result<()> {
    secrets::read(options).map(drop)
}
