//! The hub: the middle of the bus, a thread of the master.

pub(crate) mod core;
pub(crate) mod nats;

pub(crate) use self::core::Counters;
