//! The only floor that may be `unsafe`: what the kernel offers and the standard library does not.
//!
//! Raw descriptor numbers and raw pointers stay in here; every function takes and returns owned or
//! borrowed descriptors. Each `unsafe` block says why it is needed and why it is sound.
#![allow(unsafe_code, reason = "this is the one floor where it is allowed")]

pub mod activation;
pub mod child;
pub mod clock;
pub mod exec;
pub mod fdpass;
pub mod lock;
pub mod orphans;
pub mod privileges;
pub mod readiness;
pub mod reuseport;
pub mod schedule;
pub mod shm;
pub mod socket;
pub mod tie;
