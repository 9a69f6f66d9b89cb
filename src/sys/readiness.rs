//! Descriptors that a tokio runtime watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

use super::child::Child;

/// Registers a descriptor with the runtime of this thread.
///
/// # Errors
/// As `epoll_ctl(2)`.
///
/// # Panics
/// Outside a runtime.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps one descriptor open, under one number, until it is dropped, which
    // AsyncFd does only after it has taken the descriptor out of the epoll set.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Registers a child, which becomes readable when it ends. One that cannot be registered is ended.
///
/// # Errors
/// As `epoll_ctl(2)`.
///
/// # Panics
/// Outside a runtime.
pub fn watch_child(child: Child) -> io::Result<AsyncFd<Child>> {
    // SAFETY: a Child keeps one pidfd open, under one number, until it is dropped.
    unsafe { AsyncFd::register_with_interest(child, Interest::READABLE) }.map_err(|refused| {
        let (child, error) = refused.into_parts();
        child.end();
        error
    })
}

/// Would a write to `target` go through now, without waiting?
pub fn is_writable_now(target: impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ask = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ask, PollTimeout::ZERO).is_ok_and(|n| n == 1)
        && ask[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLOUT))
}
