//! Streams of bytes between two processes of one machine: a socket pair, of which each has an end. The
//! kernel holds what has not been read, and the writer waits when that is too much.

use std::{
    io,
    os::{fd::OwnedFd, unix::net},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use super::{framing::Framed, id::ProcessId};

/// A stream of bytes between this process and another, both ways at once. Writing waits for the reader
/// (some 200 KB are on the way at the most). `shutdown` ends one direction: the other process reads the
/// end, and can go on writing. Dropping it ends both.
///
/// `tokio::io::split`, or [`into_inner`](Self::into_inner), makes two halves of it for two tasks.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    peer: ProcessId,
}

/// Makes both ends of a stream, non-blocking and close-on-exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = net::UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one.into(), other.into()))
}

impl Stream {
    /// Takes over one end.
    ///
    /// # Errors
    /// The runtime cannot register it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(end: OwnedFd, peer: ProcessId) -> io::Result<Self> {
        let end = net::UnixStream::from(end);
        // Whoever sent it may have thought otherwise.
        end.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(end)?,
            peer,
        })
    }

    /// Who has the other end.
    pub fn peer(&self) -> ProcessId {
        self.peer
    }

    /// Values instead of bytes, each with its length before it: [`Framed::length_prefixed`].
    pub fn framed(self) -> Framed<Self> {
        Framed::length_prefixed(self)
    }

    /// The socket itself.
    pub fn into_inner(self) -> UnixStream {
        self.socket
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
