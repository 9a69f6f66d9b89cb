//! The program that decides which listener of a SO_REUSEPORT group receives a new connection.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use socket2::{Domain, Socket};

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

/// Makes a TCP listener drop whatever comes, as if it had been lost on the way, or listen again. It
/// does so by wanting packets that have passed no router (`IP_MINTTL`, ip(7)), which it takes from
/// the hop limit 255 that hardly anybody sends: unlike a socket filter, which some kernels refuse to
/// whoever is not root, this needs no privilege.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn deafen(listener: &Socket, deaf: bool) -> io::Result<()> {
    let hops: libc::c_int = if deaf { 255 } else { 0 };
    let set = |level, option| {
        // SAFETY: the kernel reads an int, which outlives the call, and writes nothing.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                level,
                option,
                (&raw const hops).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    if listener.domain()? == Domain::IPV6 {
        set(libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)?;
    }
    // On an IPv6 socket this is for the IPv4 clients that it may have too.
    set(libc::IPPROTO_IP, libc::IP_MINTTL)
}
