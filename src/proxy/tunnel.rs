//! Tunnels: what a connection becomes once both ends have agreed to switch protocols.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    task::spawn_local,
};

use super::upstream::{Link, Socket};

/// Carries bytes both ways between a client that is being switched over and the upstream that
/// `link` led to, until both have closed. Neither connection serves anything else afterwards.
pub(super) fn dig(client: OnUpgrade, link: Box<Link>) {
    let (socket, first, open) = link.into_socket();
    spawn_local(async move {
        let mut upstream = Upstream { first, socket };
        // The client may be gone before it could be switched over.
        if let Ok(client) = client.await {
            // An error here is one end's going away: both are closed, which is all there is to do.
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut upstream).await;
        }
        drop(open);
    });
}

/// The upstream's socket, beginning with what was read together with its last response.
struct Upstream {
    first: Bytes,
    socket: Socket,
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.has_remaining() {
            let n = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
