//! The door of a worker with a listener of its own (mode `reuseport`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    conn::Conn,
    dispatch::mode::Arm,
    scoreboard::{RowRef, count::add_shared},
    sys::{
        readiness::watch,
        socket::{AcceptError, accept, classify},
    },
    worker::{app::Application, serve::Host},
};

/// How long an accept loop rests when descriptors or memory have run out.
pub(super) const EXHAUSTED_REST: Duration = Duration::from_millis(50);

pub(super) struct OwnDoor<A> {
    host: Host<A>,
    id: u8,
    arm: Arm,
    listener: AsyncFd<OwnedFd>,
}

impl<A: Application> OwnDoor<A> {
    pub(super) fn new(host: Host<A>, id: u8, arm: Arm, listener: OwnedFd) -> io::Result<Self> {
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
                AcceptError::Empty => ready.clear_ready(),
                AcceptError::Exhausted => tokio::time::sleep(EXHAUSTED_REST).await,
                // The turn was long: let the connections taken so far have theirs.
                AcceptError::Connection => tokio::task::yield_now().await,
            }
        }
    }

    /// Accepts what waits now, within reason. Says why it stopped.
    pub(super) fn sweep(&self) -> AcceptError {
        /// Accepted in one go before the connections are looked at.
        const TURN: usize = 64;
        let row = self.host.worker().row();
        for _ in 0..TURN {
            match take(self.listener.as_fd(), row, self.id, self.arm) {
                Ok(conn) => self.host.welcome(conn),
                Err(AcceptError::Connection) => {}
                Err(stop) => return stop,
            }
        }
        AcceptError::Connection
    }
}

/// Accepts one connection and counts it as this worker's, before anything else happens to it.
pub(super) fn take(
    listener: impl AsFd,
    row: &RowRef,
    id: u8,
    arm: Arm,
) -> Result<Conn, AcceptError> {
    match accept(listener.as_fd()) {
        Ok((socket, peer)) => {
            add_shared(&row.work.self_accepted, 1);
            Ok(Conn {
                socket,
                peer,
                listener: id,
                arm,
                accepted_at: 0,
            })
        }
        Err(error) => {
            let kind = classify(&error);
            if kind == AcceptError::Exhausted {
                add_shared(&row.work.accept_exhausted, 1);
            }
            Err(kind)
        }
    }
}
