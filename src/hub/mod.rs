//! The hub: the middle of the bus, a thread of the master.

pub(crate) mod core;
#[cfg(test)]
mod ends;

pub(crate) use self::core::Counters;
#[doc(hidden)]
pub use self::core::Workbench;
