//! Connections as they are: the user's own code reads and writes them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    Worker,
    account::Account,
    moved::Moved,
    serve::{Host, Protocol},
};
use crate::{conn::Accepted, dispatch::mode::Arm};

/// Gives every connection to a function of the user's.
pub(crate) struct Raw<F>(pub(super) F);

impl<F, Fut> Protocol for Raw<F>
where
    F: Fn(Conn) -> Fut + 'static,
    Fut: Future + 'static,
{
    fn serve(
        host: &Host<Self>,
        accepted: Accepted,
        account: Arc<Account>,
        moved: Option<Moved>,
    ) -> io::Result<()> {
        let stream = TcpStream::from_std(std::net::TcpStream::from(accepted.socket))?;
        let conn = Conn::new(accepted.peer, stream, account, host.worker().clone(), moved);
        let host = host.clone();
        // In a task of its own from the first word of the user's on: should that panic, it costs this
        // connection.
        tokio::task::spawn_local(async move {
            let mut handler = pin!((host.protocol().0)(conn));
            poll_fn(|cx| {
                host.tick();
                handler.as_mut().poll(cx).map(drop)
            })
            .await;
        });
        Ok(())
    }

    /// Whoever wants to know asks the worker.
    fn drain(&self, _: &Worker) {}
}

/// An accepted connection, for any protocol on TCP: what
/// [`Cluster::serve_connections`](crate::Cluster::serve_connections) gives to its function.
///
/// Read it and write it by [`AsyncRead`] and [`AsyncWrite`], in halves by [`tokio::io::split`]. It is
/// non-blocking and `TCP_NODELAY` is set. Dropping it closes the connection; until then it counts as open
/// and the worker, when it drains, waits for it up to the drain timeout. It has no timeouts of its own: how
/// long a client may be silent is for the protocol to say.
///
/// It may be used in any thread, and counts there too, but only what happens in the worker's own thread is
/// seen as a sign of life of the worker.
#[derive(Debug)]
pub struct Conn {
    peer: SocketAddr,
    stream: TcpStream,
    /// After the stream, so that it is closed before it is counted as closed.
    account: Arc<Account>,
    worker: Worker,
    moved: Option<Moved>,
}

impl Conn {
    pub(super) fn new(
        peer: SocketAddr,
        stream: TcpStream,
        account: Arc<Account>,
        worker: Worker,
        moved: Option<Moved>,
    ) -> Self {
        Self {
            peer,
            stream,
            account,
            worker,
            moved,
        }
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// The client's address as the kernel has it.
    pub(super) fn raw_peer(&self) -> SocketAddr {
        self.peer
    }

    /// The client's address. An IPv4 client of an IPv6 listener is shown as IPv4.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port())
    }

    /// The address that the client has connected to, shown likewise.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.stream.local_addr()?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Which of the cluster's listeners it came in by, from 0. Of a connection that another master of the
    /// tree, or the user's own code, has made: 0.
    pub fn listener(&self) -> usize {
        usize::from(self.account.listener())
    }

    /// The mode and policy that brought it.
    pub fn arm(&self) -> Arm {
        self.account.arm()
    }

    /// The worker that holds it.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// What came along if another process has moved it here
    /// ([`Worker::send_connection`]), and from whom.
    pub fn message(&self) -> Option<&Moved> {
        self.moved.as_ref()
    }

    /// Waits until the worker is to end: from then on finish what is under way and drop the connection.
    /// What is still open at the drain timeout is cut.
    pub async fn draining(&self) {
        self.worker.draining().await;
    }

    /// Waits until the client has sent something, and copies it to `buffer` without taking it: who reads
    /// next, here or where the connection is moved to, gets it as if nobody had looked. Returns how many
    /// bytes there were; 0: the client sends no more.
    ///
    /// It does not wait for more than there is.
    ///
    /// # Errors
    /// As `recv(2)`.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buffer).await
    }
}

impl AsFd for Conn {
    /// For socket options. What is read or written past the connection is not counted.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let got = buf.filled().len() - before;
        if got > 0 {
            this.account.read(got);
        }
        result
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.account.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.account.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
