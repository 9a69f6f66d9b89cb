//! Sockets to endpoints.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{config::Address, small_writes::poll_write_pieces};

/// A connected socket to an endpoint.
///
/// An upstream that refuses an upload often answers and hangs up with the rest unread, so that our
/// next write fails while its answer waits to be read (RFC 9112, section 9.6). So a write that finds
/// the other end gone is not an error: what it was to send goes nowhere, and reading, which still
/// finds the answer, decides how the connection ended.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    /// Does it carry HTTP, with answers to be read?
    http: bool,
    /// Set once a write has failed; the error that reading reports when there is nothing more.
    gone: Option<io::ErrorKind>,
}

#[derive(Debug)]
enum Stream {
    /// Without delay.
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects. A name is looked up anew each time; all of its addresses are tried in turn.
    ///
    /// # Errors
    /// As `connect(2)` and `getaddrinfo(3)`, of the last address tried.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        };
        Ok(Self {
            stream,
            http: true,
            gone: None,
        })
    }

    /// The same socket for a tunnel, where a failed write is the end.
    pub(super) fn into_tunnel(self) -> Self {
        Self {
            http: false,
            ..self
        }
    }

    /// What a write of `length` bytes comes to.
    #[inline]
    fn written(
        &mut self,
        result: Poll<io::Result<usize>>,
        length: impl FnOnce() -> usize,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error)) if self.http && is_gone(&error) => {
                self.gone = Some(error.kind());
                Poll::Ready(Ok(length()))
            }
            result => result,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match this.gone {
            // The failed write has used the socket's error up: an end here is not a clean one.
            Some(kind) if result.is_ready() && buf.filled().len() == before => {
                Poll::Ready(Err(kind.into()))
            }
            _ => result,
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.written(result, || buf.len())
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.stream {
            Stream::Tcp(stream) => poll_write_pieces(Pin::new(stream), cx, bufs),
            Stream::Unix(stream) => poll_write_pieces(Pin::new(stream), cx, bufs),
        };
        this.written(result, || bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither kind has anything to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
