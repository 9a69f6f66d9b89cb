//! The rules of dispatch, pure: no socket, no clock, no randomness. The dispatcher, the benches, the
//! property tests and a simulator all run this same code.

pub mod name;

pub mod load;
pub mod policy;

pub mod pins;

pub mod mode;
pub mod steering;

pub mod shadow;

pub mod decision;
pub mod wire;
