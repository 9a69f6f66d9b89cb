//! The claim word: who owns a handed-over connection, settled by one compare-and-swap.
//!
//! The master numbers the connections that it hands to a worker 1, 2, 3 … (wrapping) and keeps a
//! copy of each descriptor. One 64-bit word per worker holds *claimed up to* (low half) and *revoked
//! up to* (high half). The worker claims a batch before it looks at any byte; the master revokes
//! everything sent when the worker died or hangs. Both only ever change the word by
//! compare-and-swap, so for each connection exactly one of the two wins:
//!
//! - the worker moves *claimed* (and *revoked* with it) to the end of its batch, unless *revoked*
//!   has passed it;
//! - the master moves *revoked* to the last number sent; what lies beyond *claimed* at that moment
//!   is the master's again, and the worker that wakes up later finds it revoked.
//!
//! `tests/claim.rs` explores every interleaving with loom, and shows that it notices when the
//! compare-and-swap is broken.

use std::sync::atomic::{AtomicU64, Ordering};

/// The one operation that the protocol needs beside a load. A trait, so that a model checker can put
/// its own word in the place of the real one.
pub trait Word {
    /// Reads with acquire order.
    fn load(&self) -> u64;
    /// Replaces `current` by `new` with acquire-release order, or returns what is there.
    ///
    /// # Errors
    /// The word held something else, which is returned.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Acquire)
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        Self::compare_exchange(self, current, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[derive(Clone, Copy)]
struct Marks {
    claimed: u32,
    revoked: u32,
}

impl Marks {
    fn unpack(word: u64) -> Self {
        Self {
            claimed: word as u32,
            revoked: (word >> 32) as u32,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.revoked) << 32 | u64::from(self.claimed)
    }
}

/// Is `a` behind `b`? Numbers wrap; at most [`MAX_BATCH`](crate::dispatch::wire::MAX_BATCH) are ever
/// outstanding, so the shorter way round is the right one.
fn behind(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) > 0
}

/// Worker: claims the `count` connections from number `first` on. Returns how many of them, from the
/// front, were revoked before: those belong to the master, close them unread. The rest is claimed.
///
/// A batch is sent and revoked whole, so the answer is 0 or `count` unless the master is broken.
pub fn claim(word: &impl Word, first: u32, count: u32) -> u32 {
    let last = first.wrapping_add(count).wrapping_sub(1);
    let mut current = word.load();
    loop {
        let marks = Marks::unpack(current);
        if !behind(marks.revoked, last) {
            return count;
        }
        let refused = if behind(marks.revoked, first) {
            0
        } else {
            marks.revoked.wrapping_sub(first).wrapping_add(1)
        };
        // What is claimed can no longer be revoked: *revoked* moves along, so that the two marks
        // never drift so far apart that the wrapping comparison turns over.
        match word.compare_exchange(
            current,
            Marks {
                claimed: last,
                revoked: last,
            }
            .pack(),
        ) {
            Ok(_) => return refused,
            Err(now) => current = now,
        }
    }
}

/// Master: takes back everything up to number `sent`, the last one sent, that is not claimed.
/// Returns the last claimed number: what lies behind it up to `sent` is the master's again.
pub fn revoke(word: &impl Word, sent: u32) -> u32 {
    let mut current = word.load();
    loop {
        let marks = Marks::unpack(current);
        match word.compare_exchange(
            current,
            Marks {
                revoked: sent,
                ..marks
            }
            .pack(),
        ) {
            Ok(_) => return marks.claimed,
            Err(now) => current = now,
        }
    }
}

/// Master: has the worker claimed number `sequence`? Only to be asked about numbers that were
/// never revoked.
#[inline]
pub fn is_claimed(claimed: u32, sequence: u32) -> bool {
    !behind(claimed, sequence)
}

/// Master: the last number that the worker has claimed.
#[inline]
pub fn claimed(word: &impl Word) -> u32 {
    Marks::unpack(word.load()).claimed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word of a worker that has claimed nothing when the next number to be sent is `next`.
    /// A zeroed row is a fresh word for 1, the first number of every worker.
    fn word(next: u32) -> AtomicU64 {
        let before = next.wrapping_sub(1);
        AtomicU64::new(
            Marks {
                claimed: before,
                revoked: before,
            }
            .pack(),
        )
    }

    #[test]
    fn what_was_claimed_first_stays_claimed() {
        let w = word(1);
        assert_eq!(claim(&w, 1, 3), 0);
        assert_eq!(revoke(&w, 5), 3, "4 and 5 are the master's");
        assert_eq!(claim(&w, 4, 2), 2, "both refused");
        assert_eq!(claim(&w, 6, 2), 0, "sent after the revocation");
        assert_eq!(claimed(&w), 7);
    }

    #[test]
    fn a_batch_half_revoked_is_refused_in_its_front() {
        let w = word(1);
        assert_eq!(revoke(&w, 2), 0);
        assert_eq!(claim(&w, 1, 4), 2);
    }

    #[test]
    fn numbers_wrap() {
        let w = word(u32::MAX);
        assert_eq!(claim(&w, u32::MAX, 3), 0, "MAX, 0, 1");
        let c = claimed(&w);
        assert!(is_claimed(c, u32::MAX) && is_claimed(c, 0) && is_claimed(c, 1));
        assert!(!is_claimed(c, 2));
        assert_eq!(revoke(&w, 3), 1);
        assert_eq!(claim(&w, 2, 2), 2);
    }

    #[test]
    fn a_worker_that_is_never_revoked_can_claim_for_ever() {
        let w = word(1);
        for step in 0..12_u32 {
            let first = 1_u32.wrapping_add(step << 30);
            assert_eq!(claim(&w, first, 64), 0, "step {step}");
        }
    }
}
