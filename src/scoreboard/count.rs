//! Counting in shared memory with one writer per number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adds to a number of which the caller is the only writer: a load and a store, without the locked
/// instruction that an atomic add costs.
#[inline]
pub fn add(number: &AtomicU64, n: u64) {
    number.store(number.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Subtracts, likewise.
#[inline]
pub fn subtract(number: &AtomicU64, n: u64) {
    number.store(number.load(Relaxed).wrapping_sub(n), Relaxed);
}
