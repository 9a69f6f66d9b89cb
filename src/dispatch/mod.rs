//! The rules of dispatch, pure: no socket, no clock, no randomness. The dispatcher, the benches, the
//! property tests and a simulator all run this same code.

pub mod mode;
pub mod policy;
pub mod steering;
pub mod wire;
