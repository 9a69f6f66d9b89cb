//! A connection on its way from the listener to the worker that serves it.

use std::{net::SocketAddr, os::fd::OwnedFd};

use crate::dispatch::{mode::Arm, shadow::Picks, wire::Entry};

/// An accepted socket with its peer, its listener, and the mode and policy that brought it. Whoever
/// holds it owns the socket: dropping it closes the connection.
#[derive(Debug)]
pub struct Accepted {
    /// Non-blocking, TCP_NODELAY set.
    pub(crate) socket: OwnedFd,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: u8,
    pub(crate) arm: Arm,
    /// Where shadow policies would have sent it; none where the master did not choose.
    pub(crate) shadows: Picks,
    /// When it was accepted, monotonic clock, nanoseconds; 0 where nobody needs it.
    pub(crate) accepted_at: u64,
}

impl Accepted {
    /// The connection that a batch's entry describes.
    pub(crate) fn handed_over(socket: OwnedFd, entry: Entry) -> Self {
        let Entry {
            accepted_at,
            peer,
            listener,
            arm,
            shadows,
        } = entry;
        Self {
            socket,
            peer,
            listener,
            arm,
            shadows,
            accepted_at,
        }
    }

    /// What a batch says about it.
    pub(crate) fn entry(&self) -> Entry {
        let Self {
            accepted_at,
            peer,
            listener,
            arm,
            shadows,
            ..
        } = *self;
        Entry {
            accepted_at,
            peer,
            listener,
            arm,
            shadows,
        }
    }
}
