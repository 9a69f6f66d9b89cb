//! The program that decides which listener of a SO_REUSEPORT group receives a new connection.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// One instruction of classic BPF, as `struct sock_filter` (`linux/filter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, `BPF_*` constants or-ed.
    pub code: u16,
    /// Instructions to skip if a jump's condition holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// The operand.
    pub k: u32,
}

/// Attaches `program` to the whole group of `listener` (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)),
/// taking the place of the one before. The program returns the index of a member in the order in
/// which they began to listen; an index outside the group falls back to the kernel's own hash.
///
/// # Errors
/// As `setsockopt(2)`: `EINVAL` if the kernel rejects the program, `ENOMEM` if it is over the
/// socket's option memory.
pub fn attach(listener: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter {
            code: i.code,
            jt: i.jump_true,
            jf: i.jump_false,
            k: i.k,
        })
        .collect();
    let length = u16::try_from(filter.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "program too long"))?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions at `filter`, which is that long and outlives the
    // call, and copies them; it writes nothing.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
