//! The hub's way to other masters, through NATS.

pub(crate) mod envelope;
pub(crate) mod roster;
