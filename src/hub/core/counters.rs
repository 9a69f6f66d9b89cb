//! What the hub counts. Written by the hub's thread alone, read by whoever shows metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::bus::Failure;

/// Why a message, or an answer, did not get to somebody that it was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Lost {
    /// The receiver, or the way to it, had too much waiting.
    Overflow,
    /// Nobody is there by that address.
    Unroutable,
    /// It was too late when it came to the hub.
    Expired,
    /// It came back to a hub, or had come through too many.
    Loop,
    /// It came from afar, from a sender that is not known on that way.
    Stranger,
    /// An answer that nobody waits for, or not from there.
    Unasked,
    /// Its descriptor could not go along.
    Attachment,
    /// It was waiting when the receiver's line closed.
    Closed,
}

impl Lost {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Overflow,
        Self::Unroutable,
        Self::Expired,
        Self::Loop,
        Self::Stranger,
        Self::Unasked,
        Self::Attachment,
        Self::Closed,
    ];

    /// As a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Unroutable => "unroutable",
            Self::Expired => "expired",
            Self::Loop => "loop",
            Self::Stranger => "stranger",
            Self::Unasked => "unasked",
            Self::Attachment => "attachment",
            Self::Closed => "closed",
        }
    }
}

/// Every way for a request to fail, in the order of [`Counters`], with its metric's label.
pub(crate) const FAILURES: [(Failure, &str); 7] = [
    (Failure::Unroutable, "unroutable"),
    (Failure::NoListener, "no_listener"),
    (Failure::NoHost, "no_host"),
    (Failure::Overflow, "overflow"),
    (Failure::Gone, "gone"),
    (Failure::Expired, "expired"),
    (Failure::Refused, "refused"),
];

/// What the hub has counted since it began, and what is there now.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages and answers that came in, from processes and hubs.
    pub(crate) received: Counter,
    /// Messages and answers put into a queue, once for each receiver. A hub is one.
    pub(crate) delivered: Counter,
    /// The bytes of those, with their heads.
    pub(crate) bytes: Counter,
    /// Packets that were none; each costs who sent it its line.
    pub(crate) malformed: Counter,
    /// Lines cut because too much waited for them.
    pub(crate) cut: Counter,
    /// Facts about a master that came by another way than the one it is known by, or from itself.
    pub(crate) facts_ignored: Counter,
    /// Processes on the bus, of all masters.
    pub(crate) processes: Counter,
    /// Other hubs that this one has a line to.
    pub(crate) hubs: Counter,
    /// Bytes that wait in all queues.
    pub(crate) queued_bytes: Counter,
    lost: [Counter; Lost::ALL.len()],
    failures: [Counter; FAILURES.len()],
}

impl Counters {
    /// What has been lost for this reason.
    pub(crate) fn lost(&self, reason: Lost) -> &Counter {
        &self.lost[reason as usize]
    }

    /// Requests that the hub has seen fail so, the receivers' refusals included.
    pub(crate) fn failures(&self, failure: Failure) -> &Counter {
        &self.failures[failure as usize - 1]
    }
}

/// A number with one writer, so that adding costs no more than on a plain one.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// So many more. For the one writer.
    pub(crate) fn add(&self, more: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// So many. For the one writer.
    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }
}
