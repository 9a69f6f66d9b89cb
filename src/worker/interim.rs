//! Interim responses (1xx), which hyper's server has no way to send: written to the client's socket
//! between hyper's own writes.

use std::{
    io,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use hyper::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

/// What waits to be written to one client, and whether it may be. Costs nothing while nothing waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Something waits.
    waiting: AtomicBool,
    /// hyper has something buffered that must go out first.
    behind: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Outbox {
    /// Leaves an interim response to be written before anything else that hyper writes. Left out if
    /// hyper has not finished writing the response before: its bytes would be torn apart.
    pub(super) fn put(&self, status: StatusCode, headers: &HeaderMap) {
        if self.behind.load(Relaxed) {
            return;
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = status.canonical_reason().unwrap_or("");
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        self.waiting.store(true, Relaxed);
    }

    /// Writes what waits. To be called before each write of hyper's, and when it flushes.
    #[inline]
    pub(super) fn poll_empty<W: AsyncWrite + Unpin>(
        &self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waiting.load(Relaxed) {
            ready!(self.poll_write(socket, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    #[cold]
    fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.drain(..written);
        }
        self.waiting.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// hyper has begun to write.
    #[inline]
    pub(super) fn hyper_writes(&self) {
        self.behind.store(true, Relaxed);
    }

    /// hyper has written all that it had.
    #[inline]
    pub(super) fn hyper_flushed(&self) {
        self.behind.store(false, Relaxed);
    }
}
