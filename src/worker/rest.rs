//! When the thread at the shared listener rests, and what wakes it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{dispatch::mode::Mode, scoreboard::RowRef};

/// The state of the door in mode `hybrid`: it rests while the worker's load is above the mean, and
/// looks again when a connection has come or gone. Always awake in other modes.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    /// Only in mode `hybrid` does a thread ever rest for its load.
    by_load: Arc<AtomicBool>,
    /// The thread sits the queue out.
    pub(super) resting: Arc<AtomicBool>,
    /// The thread is to end.
    pub(super) stopping: Arc<AtomicBool>,
    /// What the thread waits for besides connections.
    pub(super) bell: Arc<EventFd>,
}

impl Rest {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            by_load: Arc::default(),
            resting: Arc::default(),
            stopping: Arc::default(),
            bell: Arc::new(EventFd::from_flags(flags)?),
        })
    }

    /// A thread is about to wait at the door in `mode`.
    pub(super) fn prepare(&self, mode: Mode) {
        self.by_load.store(mode == Mode::Hybrid, Relaxed);
        self.resting.store(false, Release);
        self.stopping.store(false, Release);
    }

    /// A connection was handed over or has ended: the load or the mean has moved.
    #[inline]
    pub(super) fn load_moved(&self, row: &RowRef) {
        if !self.by_load.load(Relaxed) {
            return;
        }
        // Either the thread sees the load as it is now, or we see that it rests.
        fence(SeqCst);
        if self.resting.load(Acquire) && may_accept(row) {
            self.ring();
        }
    }

    /// Wakes the thread at the door.
    pub(super) fn ring(&self) {
        // The counter would have to be at its limit for this to fail, and then it has rung.
        let _ = self.bell.write(1);
    }
}

/// Mode `hybrid`: a worker accepts by itself while its load is at or below the mean.
pub(super) fn may_accept(row: &RowRef) -> bool {
    row.load() <= row.board().mean_load()
}
