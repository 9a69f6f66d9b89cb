//! `accept4(2)` with everything a connection needs in one call.

use std::{
    io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Accepts one connection from a non-blocking listener: non-blocking and close-on-exec from birth,
/// with the peer's address from the same call (the standard library would need a second call for
/// the one, and `nix` gives no address).
///
/// # Errors
/// As `accept(2)`. `WouldBlock`: nobody is waiting. Linux also reports pending network errors of
/// the new connection here; those are the connection's, not the listener's: see [`classify`].
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: sockaddr_storage is plain data for which all-zero is valid.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `storage`, which is that large. The number
    // returned is a descriptor that it has just made for us, so owning it is right.
    let socket = unsafe {
        let fd = libc::accept4(
            listener.as_raw_fd(),
            (&raw mut storage).cast(),
            &raw mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    Ok((socket, address(&storage)?))
}

fn address(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel stored a sockaddr_in, which fits.
            let a = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            Ok(SocketAddr::V4(SocketAddrV4::new(
                Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)),
                u16::from_be(a.sin_port),
            )))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel stored a sockaddr_in6, which fits.
            let a = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            Ok(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(a.sin6_addr.s6_addr),
                u16::from_be(a.sin6_port),
                a.sin6_flowinfo,
                a.sin6_scope_id,
            )))
        }
        family => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("accepted a connection of address family {family}, not TCP"),
        )),
    }
}

/// How many connections wait in a listener's accept queue (`tcpi_unacked` of a listening socket,
/// `tcp_get_info` in net/ipv4/tcp.c).
///
/// Asking first is cheaper than accepting until there is nothing: an `accept4` that fails has made
/// and destroyed a socket (2 µs here, against 0.3 µs).
///
/// # Errors
/// As `getsockopt(2)`.
pub fn waiting(listener: BorrowedFd<'_>) -> io::Result<u32> {
    const AT: usize = mem::offset_of!(libc::tcp_info, tcpi_unacked);
    let mut info = [0_u8; AT + size_of::<u32>()];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long, and a prefix
    // of the structure is what a shorter length asks for.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let (_, count) = info
        .split_last_chunk()
        .expect("the array is longer than the count");
    Ok(u32::from_ne_bytes(*count))
}

/// What an accept loop does about an error of [`accept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptError {
    /// Nobody is waiting: go and wait.
    Empty,
    /// That one connection is gone or may not be had: count it and take the next.
    Connection,
    /// This process or the machine is out of descriptors or memory: rest a little, or the loop burns a core.
    Exhausted,
}

/// Sorts an error of [`accept`] by what to do; no error ends an accept loop.
pub fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => AcceptError::Empty,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        _ => AcceptError::Connection,
    }
}
