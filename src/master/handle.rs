//! The master's own place on the bus, for the program that runs it.

use std::{io, net::TcpStream, os::fd::AsFd, sync::atomic::Ordering::Relaxed};

use super::{WorkerProcess, hooks::describe};
use crate::{
    bus::{Attachment, Bus, BusError, Payload, To},
    hub::HubHandle,
    scoreboard::{Scoreboard, State},
    worker::{Label, NotMoved, hand_connection, send_listener},
};

/// The master, as the program that runs it sees it: what
/// [`Cluster::on_master`](crate::Cluster::on_master) gives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Master {
    bus: Bus,
    board: Scoreboard,
}

impl Master {
    pub(super) fn new(hub: &HubHandle, board: &Scoreboard) -> io::Result<Self> {
        Ok(Self {
            bus: Bus::connect(hub.own()?)?,
            board: board.clone(),
        })
    }

    /// Its place on the bus, by which it talks to its workers and all others.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    /// The worker processes that there are now, those that start and those that drain included.
    pub fn workers(&self) -> Vec<WorkerProcess> {
        let rows = self.board.occupied();
        let there =
            rows.filter(|row| row.birth.pid.load(Relaxed) != 0 && row.state() != State::Free);
        there.map(describe).collect()
    }

    /// Moves a connection that the master's own code has accepted to a worker, with a message, as
    /// [`Worker::send_connection`](crate::Worker::send_connection) does. There it counts under listener 0.
    /// One of tokio's is made one of the standard library's by
    /// [`into_std`](tokio::net::TcpStream::into_std). It becomes non-blocking, and `TCP_NODELAY` is set.
    ///
    /// # Errors
    /// As [`Worker::send_connection`](crate::Worker::send_connection); it is not connected any more.
    pub async fn send_connection(
        &self,
        to: impl Into<To>,
        conn: TcpStream,
        message: impl Into<Payload>,
    ) -> Result<(), NotMoved<TcpStream>> {
        let prepared = || {
            let peer = conn.peer_addr()?;
            conn.set_nonblocking(true)?;
            conn.set_nodelay(true)?;
            Ok::<_, io::Error>((Label::new(peer, None), conn.as_fd().try_clone_to_owned()?))
        };
        let (label, copy) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return Err(NotMoved::back(error.into(), conn)),
        };
        let socket = Attachment::connection(copy);
        match hand_connection(&self.bus, to.into(), socket, label, message.into()).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.attachment.is_some() => Err(NotMoved::back(failed.error, conn)),
            Err(failed) => Err(NotMoved::lost(failed.error)),
        }
    }

    /// Passes a listening socket to a worker, with a message, as
    /// [`Worker::send_listener`](crate::Worker::send_listener) does.
    ///
    /// # Errors
    /// As [`Worker::send_listener`](crate::Worker::send_listener).
    pub async fn send_listener(
        &self,
        to: impl Into<To>,
        listener: impl AsFd,
        message: impl Into<Payload>,
    ) -> Result<(), BusError> {
        send_listener(&self.bus, to.into(), listener, message.into()).await
    }
}
