//! Descriptors through a `SOCK_SEQPACKET` socket pair: one message, its bytes and up to
//! [`MAX_DESCRIPTORS`] descriptors, whole or not at all.
//!
//! Written straight on `libc` rather than on `nix`, whose `sendmsg`/`recvmsg` allocate their control
//! buffer on every call; this is the accept path. See `unix(7)`, `SCM_RIGHTS`, and `cmsg(3)`.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// The most descriptors that one message carries. The kernel's own limit is 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 64;

/// Room for one `SCM_RIGHTS` block of `MAX_DESCRIPTORS`, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_SPACE]);

const CONTROL_SPACE: usize = {
    // SAFETY: CMSG_SPACE is arithmetic on its argument; libc only marks it unsafe as it does all macros.
    unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * mem::size_of::<RawFd>()) as u32) as usize }
};

/// What one [`receive`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer. 0 with no descriptor: the other end is closed.
    pub bytes: usize,
    /// The message was larger than the buffer, or descriptors were lost because this process has
    /// no room for them (`MSG_TRUNC`, `MSG_CTRUNC`): treat the message as broken.
    pub truncated: bool,
}

/// A connected pair of seqpacket sockets, both non-blocking and close-on-exec.
///
/// # Errors
/// As `socketpair(2)`: out of descriptors or memory.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?)
}

/// Sends `bytes` and `descriptors` as one message. Never blocks.
///
/// # Errors
/// As `sendmsg(2)`. `WouldBlock`: the channel is full. `BrokenPipe` and `ConnectionReset`: the other
/// end is gone. `InvalidInput`: more than [`MAX_DESCRIPTORS`], or no bytes.
pub fn send<'fd>(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: impl ExactSizeIterator<Item = BorrowedFd<'fd>>,
) -> io::Result<()> {
    let count = descriptors.len();
    if count > MAX_DESCRIPTORS || bytes.is_empty() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut control = Control([0; CONTROL_SPACE]);
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if count > 0 {
        let payload = count * mem::size_of::<RawFd>();
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: `control` is aligned for and has room for one header and MAX_DESCRIPTORS numbers,
        // and `count` is at most that, so every write below stays inside it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(payload as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            let mut written = 0;
            for fd in descriptors.take(count) {
                ptr::write_unaligned(data.add(written), fd.as_raw_fd());
                written += 1;
            }
            // `len` is a promise of safe code, and may be wrong: a zero left over would be our stdin.
            assert_eq!(written, count, "an iterator that lies about its length");
        }
    }
    loop {
        // SAFETY: `message` points at `bytes`, `vector` and `control`, which outlive the call; the
        // kernel only reads them.
        let sent = unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &raw const message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Does what [`send`] says mean that there is no room just now, in the channel or in memory (`ENOBUFS`)?
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Takes one message: its bytes into `buffer`, its descriptors (close-on-exec) onto the end of
/// `descriptors`. Never blocks. Descriptors are owned from the first moment, so whatever the caller
/// then thinks of the message, none leaks.
///
/// # Errors
/// As `recvmsg(2)`. `WouldBlock`: nothing there. `ConnectionReset`: the other end closed with our
/// messages unread.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_SPACE]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_SPACE as _;
    let bytes = loop {
        // SAFETY: the kernel writes at most `iov_len` bytes to `buffer` and `msg_controllen` bytes to
        // `control`, both exclusively borrowed here.
        let got = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut message,
                libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
            )
        };
        if got >= 0 {
            break got as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // SAFETY: the kernel has filled `control` up to `msg_controllen` with well-formed headers, which
    // is what the CMSG walk relies on. Each number in an SCM_RIGHTS block is a descriptor that the
    // kernel has just installed for us and that nobody else knows, so owning it is right.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let payload = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..payload / mem::size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(i))));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received {
        bytes,
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, os::fd::AsFd};

    use super::*;

    fn pipes(n: usize) -> (Vec<OwnedFd>, Vec<File>) {
        (0..n)
            .map(|_| {
                let (read, write) = nix::unistd::pipe().expect("pipe");
                (read, File::from(write))
            })
            .unzip()
    }

    #[test]
    fn bytes_and_descriptors_arrive_together_and_in_order() {
        let (a, b) = pair().expect("pair");
        let (reads, mut writes) = pipes(MAX_DESCRIPTORS);
        send(a.as_fd(), b"hello", reads.iter().map(AsFd::as_fd)).expect("send");
        let (mut buffer, mut got) = ([0; 64], Vec::new());
        let received = receive(b.as_fd(), &mut buffer, &mut got).expect("receive");
        assert_eq!(
            received,
            Received {
                bytes: 5,
                truncated: false
            }
        );
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(got.len(), MAX_DESCRIPTORS);
        for (i, (fd, write)) in got.iter().zip(&mut writes).enumerate() {
            write.write_all(&[i as u8]).expect("write");
            let mut byte = [0];
            nix::unistd::read(fd, &mut byte).expect("read");
            assert_eq!(byte[0], i as u8, "descriptor {i} is another one's");
        }
    }

    #[test]
    fn an_empty_channel_would_block_and_a_closed_one_ends() {
        let (a, b) = pair().expect("pair");
        let (mut buffer, mut got) = ([0; 8], Vec::new());
        let error = receive(b.as_fd(), &mut buffer, &mut got).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        let end = receive(b.as_fd(), &mut buffer, &mut got).expect("end of file");
        assert_eq!(end.bytes, 0);
        let error = send(b.as_fd(), b"x", std::iter::empty()).expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_larger_than_the_buffer_is_reported_as_truncated() {
        let (a, b) = pair().expect("pair");
        send(a.as_fd(), &[7; 100], std::iter::empty()).expect("send");
        let received = receive(b.as_fd(), &mut [0; 8], &mut Vec::new()).expect("receive");
        assert!(received.truncated);
    }

    #[test]
    fn descriptors_of_a_message_never_read_are_closed_with_the_channel() {
        let (a, b) = pair().expect("pair");
        let (reads, mut writes) = pipes(1);
        send(a.as_fd(), b"x", reads.iter().map(AsFd::as_fd)).expect("send");
        drop(reads);
        drop((a, b));
        let error = writes[0].write(b"x").expect_err("no reader is left");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn too_many_descriptors_and_an_empty_message_are_refused() {
        let (a, _b) = pair().expect("pair");
        let fd = a.as_fd();
        let many = std::iter::repeat_n(fd, MAX_DESCRIPTORS + 1);
        assert_eq!(
            send(fd, b"x", many).expect_err("too many").kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            send(fd, b"", std::iter::empty()).expect_err("empty").kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
