//! Tunnels: what a connection becomes once both ends have agreed to switch protocols.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    task::spawn_local,
};

use super::{
    Client,
    upstream::{Link, Socket},
};
use crate::worker::{Alarm, Worker};

/// Carries bytes both ways between a client that is being switched over and the upstream that
/// `link` led to, until both have closed, or nothing has moved for too long. Neither connection
/// serves anything else afterwards.
pub(super) fn dig(client: &Client, switched: OnUpgrade, link: Box<Link>) {
    let (socket, first, open) = link.into_socket();
    let worker = client.upstream.worker().clone();
    let timeouts = *client.upstream.timeouts();
    spawn_local(async move {
        // The client may be gone before it could be switched over.
        if let Ok(client) = switched.await {
            let traffic = Traffic {
                worker: &worker,
                last: Cell::new(worker.now()),
                half: Cell::new(false),
            };
            let mut client = TokioIo::new(client);
            let mut upstream = Upstream {
                first,
                socket,
                traffic: &traffic,
            };
            let mut copying = pin!(copy_bidirectional(&mut client, &mut upstream));
            let mut alarm = Alarm::default();
            poll_fn(|cx| {
                // An error is one end's going away: both are closed, which is all there is to do.
                if copying.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                // Once one end has said that it is done, the other has less time to say nothing.
                let limit = if traffic.half.get() {
                    timeouts.body_idle
                } else {
                    timeouts.tunnel_idle
                };
                alarm.poll(cx, worker.now(), traffic.quiet_for(limit))
            })
            .await;
        }
        drop(open);
    });
}

/// What moves through a tunnel, seen at the upstream's end, where all of it passes.
struct Traffic<'a> {
    worker: &'a Worker,
    /// When the last bytes passed, monotonic nanoseconds.
    last: Cell<u64>,
    /// One direction has ended.
    half: Cell<bool>,
}

impl Traffic<'_> {
    fn moved(&self) {
        self.last.set(self.worker.now());
    }

    /// One end is done: the other's time begins now.
    fn ended(&self) {
        if !self.half.replace(true) {
            self.moved();
        }
    }

    /// When it will have been quiet for `limit`, monotonic nanoseconds.
    fn quiet_for(&self, limit: Duration) -> u64 {
        self.last.get().saturating_add(limit.as_nanos() as u64)
    }
}

/// The upstream's socket, beginning with what was read together with its last response.
struct Upstream<'a> {
    first: Bytes,
    socket: Socket,
    traffic: &'a Traffic<'a>,
}

impl AsyncRead for Upstream<'_> {
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
        let before = buf.filled().len();
        let result = Pin::new(&mut this.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.traffic.moved();
        } else if result.is_ready() {
            this.traffic.ended();
        }
        result
    }
}

impl AsyncWrite for Upstream<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.socket).poll_write(cx, buf);
        if result.is_ready() {
            this.traffic.moved();
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.traffic.ended();
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
