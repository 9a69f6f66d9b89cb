//! One HTTP connection to an endpoint, driven by whoever uses it.

use std::{
    future::Future,
    io,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;

use super::connect::Socket;
use crate::{
    proxy::request_body::RequestBody,
    scoreboard::{RowRef, count::add},
    worker::Worker,
};

/// A connection to an endpoint, with the machine that speaks HTTP on it. Nobody else drives that
/// machine: whoever waits for something from it polls it, in its own task.
pub(crate) struct Link {
    pub(super) endpoint: usize,
    /// When it was last given back, monotonic nanoseconds.
    pub(super) idle_since: u64,
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Socket>, RequestBody>,
    /// The connection has come to its end and must not be polled again.
    ended: bool,
    open: Open,
}

/// Counts an open connection; dropping it counts the close.
pub(crate) struct Open {
    row: RowRef,
    /// The endpoint's column of the scoreboard.
    column: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        add(&self.row.endpoints[self.column].closed, 1);
    }
}

impl Link {
    pub(super) async fn new(
        socket: Socket,
        endpoint: usize,
        worker: &Worker,
    ) -> io::Result<Box<Self>> {
        let (sender, connection) = Builder::new()
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        let open = Open {
            row: worker.row().clone(),
            column: worker.endpoint_column(endpoint),
        };
        add(&open.row.endpoints[open.column].opened, 1);
        Ok(Box::new(Self {
            endpoint,
            idle_since: 0,
            sender,
            connection,
            ended: false,
            open,
        }))
    }

    /// Which endpoint it leads to.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Sends a request; the answer comes from polling what is returned *and*
    /// [`poll`](Self::poll), in this order.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Drives the connection: writes what is to be written, reads what has come. Ready once it has
    /// come to its end; what depends on it has been told.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            // The error, if any, reaches the one who waits for the response or its body.
            self.ended = self.connection.poll_without_shutdown(cx).is_ready();
        }
        if self.ended {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Has it said that it is ready for another request? It may have been closed since.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }

    /// Can it serve another request? Looks at what has come meanwhile: a close, or bytes that
    /// nobody asked for and that must never reach the next client.
    #[inline]
    pub(crate) fn is_usable(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.poll(&mut nobody).is_pending() && self.sender.is_ready()
    }

    /// The bare socket of a connection that has switched protocols and so come to its end, with
    /// the first bytes of the new protocol.
    pub(crate) fn into_socket(self: Box<Self>) -> (Socket, Bytes, Open) {
        let parts = self.connection.into_parts();
        (
            parts.io.into_inner().into_tunnel(),
            parts.read_buf,
            self.open,
        )
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Drives a connection for its own sake, in a task: for the rare response that begins before its
/// request has ended, so that neither direction waits for the other.
pub(crate) struct Driven {
    task: tokio::task::JoinHandle<()>,
}

impl Driven {
    pub(crate) fn new(mut link: Box<Link>) -> Self {
        let task = tokio::task::spawn_local(std::future::poll_fn(move |cx| link.poll(cx)));
        Self { task }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.task.abort();
    }
}
