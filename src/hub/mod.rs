//! The hub: the middle of the bus, a thread of the master.
