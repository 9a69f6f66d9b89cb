//! The core by itself, and several of them wired to each other.

mod addresses;
mod hostile;
mod links;
mod model;
mod overflow;
mod requests;
mod rig;
mod stale;
