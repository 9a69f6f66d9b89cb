//! A lock on a file, held by whoever holds the descriptor.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Takes the exclusive `flock(2)` on `file`, if nobody has it. It is given up when the last copy of
/// the descriptor is closed, so it survives an `exec` that hands the descriptor on. (`nix` gives the
/// lock up when its guard is dropped, and the standard library has one only since Rust 1.89.)
///
/// # Errors
/// As `flock(2)`. `WouldBlock`: somebody else holds it.
pub fn try_lock(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that stays open while it is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
