//! A line: one end of the seqpacket pair between a process and its hub, or between two hubs. Packets go
//! through it whole or not at all, with a descriptor or without; nobody ever waits for the other end.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use super::frame::MAX_PACKET;
use crate::sys::{fdpass, readiness::watch};

/// How soon a full line is tried again where no descriptor is left to wait with.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(2);

/// One end of a line.
///
/// The runtime is told of what can be read, and not of what could be written: else every packet that
/// the other end takes would wake this one up, for nothing.
#[derive(Debug)]
pub(crate) struct Line {
    socket: AsyncFd<OwnedFd>,
}

/// Makes both ends of a line. Each becomes a [`Line`] in the process that receives it.
///
/// # Errors
/// As `socketpair(2)`.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    fdpass::pair()
}

/// What came through a line.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A packet of so many bytes, and the descriptor that came with it.
    Packet(usize, Option<OwnedFd>),
    /// A packet whose descriptor is lost, for this process has no room for any, or that was larger than
    /// any packet may be, or brought several. Only what came with it is lost if it is left at that.
    Damaged(usize),
    /// Nothing more at present.
    Empty,
    /// The other end is closed.
    Closed,
}

impl Line {
    /// Takes over one end. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot register it.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE)?,
        })
    }

    /// Gives the descriptor back, for another runtime or binary.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket.into_inner()
    }

    /// Another descriptor of the same end.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.get_ref().try_clone()
    }

    /// Sends a packet if there is room.
    ///
    /// # Errors
    /// `WouldBlock`: there is none; [`writable`](Self::writable) waits for it. Others: as `sendmsg(2)`,
    /// above all that the other end is closed.
    pub(crate) fn try_send(
        &self,
        packet: &[u8],
        attached: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        fdpass::send(self.socket.get_ref().as_fd(), packet, attached.into_iter())
    }

    /// Waits until there may be room. Costs a descriptor while it waits, or time where there is none.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let same = self.socket.get_ref().try_clone();
        let Ok(same) = same.and_then(|same| watch(same, Interest::WRITABLE)) else {
            tokio::time::sleep(WITHOUT_DESCRIPTOR).await;
            return Ok(());
        };
        // A descriptor that is new to the runtime is looked at once before it is waited for, so what
        // became free in the meantime is not missed.
        same.writable().await?.retain_ready();
        Ok(())
    }

    /// Waits until something may be there.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Takes one packet into `buffer`, which has room for [`MAX_PACKET`] bytes.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> Arrival {
        debug_assert!(buffer.len() >= MAX_PACKET);
        // Empty vectors allocate nothing.
        let mut descriptors = Vec::new();
        let received = self.socket.try_io(Interest::READABLE, |socket| {
            match fdpass::receive(socket.as_fd(), buffer, &mut descriptors) {
                // The other end was closed with something unread in it, which is said once, before what
                // it had sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    fdpass::receive(socket.as_fd(), buffer, &mut descriptors)
                }
                received => received,
            }
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrival::Empty,
            Err(_) => Arrival::Closed,
            Ok(received) if received.bytes == 0 && descriptors.is_empty() => Arrival::Closed,
            Ok(received) if received.truncated || descriptors.len() > 1 => {
                Arrival::Damaged(received.bytes)
            }
            Ok(received) => Arrival::Packet(received.bytes, descriptors.pop()),
        }
    }
}
