//! The core by itself, and several of them wired to each other.

// In a test a panic is an answer.
#![allow(clippy::unwrap_used)]

mod addresses;
mod hostile;
mod links;
mod model;
mod overflow;
mod requests;
mod rig;
mod stale;
