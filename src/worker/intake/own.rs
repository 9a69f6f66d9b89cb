//! The door of a worker with a listener of its own (mode `reuseport`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    conn::Accepted,
    dispatch::{mode::Arm, shadow::Picks},
    scoreboard::{RowRef, count::add},
    sys::{
        readiness::watch,
        socket::{AcceptError, accept, classify, waiting},
    },
    worker::serve::{Host, Protocol},
};

/// How long an accept loop rests when descriptors or memory have run out.
pub(super) const EXHAUSTED_REST: Duration = Duration::from_millis(50);

pub(super) struct OwnDoor<P> {
    host: Host<P>,
    id: u8,
    arm: Arm,
    listener: AsyncFd<OwnedFd>,
}

impl<P: Protocol> OwnDoor<P> {
    pub(super) fn new(host: Host<P>, id: u8, arm: Arm, listener: OwnedFd) -> io::Result<Self> {
        let listener = watch(listener, Interest::READABLE)?;
        Ok(Self {
            host,
            id,
            arm,
            listener,
        })
    }

    /// Accepts for ever: no error of a connection, or of the machine, ends it.
    pub(super) async fn run(&self) {
        while let Ok(mut ready) = self.listener.readable().await {
            match self.sweep() {
                Swept::Empty => ready.clear_ready(),
                Swept::More => tokio::task::yield_now().await,
                Swept::Exhausted => tokio::time::sleep(EXHAUSTED_REST).await,
            }
        }
    }

    /// Accepts what waits now, within reason: the connections taken want their turn too.
    pub(super) fn sweep(&self) -> Swept {
        const TURN: u32 = 64;
        let (listener, row) = (self.listener.as_fd(), self.host.worker().row());
        let mut budget = TURN;
        // Whoever arrives after the last look at the queue makes the listener readable anew.
        while let Ok(queued @ 1..) = waiting(listener) {
            for _ in 0..queued {
                if budget == 0 {
                    return Swept::More;
                }
                budget -= 1;
                match take(listener, row, self.id, self.arm) {
                    Ok(conn) => self.host.welcome(conn),
                    Err(AcceptError::Connection) => {}
                    Err(AcceptError::Empty) => return Swept::Empty,
                    Err(AcceptError::Exhausted) => return Swept::Exhausted,
                }
            }
        }
        Swept::Empty
    }
}

/// How a sweep ended.
pub(super) enum Swept {
    /// Nobody waits.
    Empty,
    /// Somebody may.
    More,
    /// No descriptor or memory is left.
    Exhausted,
}

/// Accepts one connection and counts it as this worker's, before anything else happens to it. Only
/// one thread of a worker may do so at a time.
pub(super) fn take(
    listener: impl AsFd,
    row: &RowRef,
    id: u8,
    arm: Arm,
) -> Result<Accepted, AcceptError> {
    // Killed between the two, the process would take a connection with it that nobody counted.
    row.work.accepting.store(1, Relaxed);
    let accepted = accept(listener.as_fd());
    if accepted.is_ok() {
        add(&row.work.self_accepted, 1);
    }
    row.work.accepting.store(0, Relaxed);
    let (socket, peer) = accepted.map_err(|error| {
        let kind = classify(&error);
        if kind == AcceptError::Exhausted {
            add(&row.work.accept_exhausted, 1);
        }
        kind
    })?;
    Ok(Accepted {
        socket,
        peer,
        listener: id,
        arm,
        shadows: Picks::NONE,
        accepted_at: 0,
    })
}
