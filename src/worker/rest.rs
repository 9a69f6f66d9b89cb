//! When the thread at the shared listener rests, and what wakes it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, SeqCst},
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
    /// Only in mode `hybrid` does a thread ever rest.
    may_rest: bool,
    /// The thread sits the queue out.
    pub(super) resting: Arc<AtomicBool>,
    /// The thread is to end.
    pub(super) stopping: Arc<AtomicBool>,
    /// What the thread waits for besides connections.
    pub(super) bell: Arc<EventFd>,
}

impl Rest {
    pub(super) fn new(mode: Mode) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            may_rest: mode == Mode::Hybrid,
            resting: Arc::default(),
            stopping: Arc::default(),
            bell: Arc::new(EventFd::from_flags(flags)?),
        })
    }

    /// A connection was handed over or has ended: the load or the mean has moved.
    #[inline]
    pub(super) fn load_moved(&self, row: &RowRef) {
        if !self.may_rest {
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
