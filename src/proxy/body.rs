//! The body of a response on its way to the client.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    Client,
    upstream::{Driven, Link},
};

/// A body of ours, or the upstream's as it comes: no more of it is held than one piece.
pub(crate) enum ProxyBody {
    /// Ours, or none at all.
    Ready(Option<Bytes>),
    /// None, in a response that says how long it would be (304; RFC 9110, section 8.6).
    Absent(u64),
    /// The upstream's.
    Upstream(UpstreamBody),
}

/// A body that drives the connection it comes from, and gives it back when it ends. Dropped before
/// its end, it closes the connection: what is left in it must not reach another client.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    source: Source,
    /// The upstream will close the connection.
    last: bool,
    client: Rc<Client>,
    /// When the last piece came, monotonic nanoseconds.
    since: u64,
    /// It has broken off; told once what came before is on its way.
    broken: Option<Interrupted>,
}

enum Source {
    /// Polled here.
    Link(Box<Link>),
    /// Polled by a task of its own, because the request is still being sent.
    Driven(#[allow(dead_code, reason = "ends the task when dropped")] Driven),
    /// Given back.
    None,
}

/// Why a response's body could not be delivered whole.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// The upstream closed the connection, or broke the rules of framing.
    Broken(hyper::Error),
    /// The upstream stopped sending.
    Idle,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the upstream's body broke off: {error}"),
            Self::Idle => f.write_str("the upstream stopped sending"),
        }
    }
}

impl StdError for Interrupted {}

impl From<Bytes> for ProxyBody {
    fn from(bytes: Bytes) -> Self {
        Self::Ready(Some(bytes))
    }
}

impl ProxyBody {
    /// The body of a response that came over `link`. `last`: the upstream will close the connection
    /// after it.
    #[inline]
    pub(super) fn upstream(
        incoming: Incoming,
        link: Box<Link>,
        client: &Rc<Client>,
        last: bool,
    ) -> Self {
        if incoming.is_end_stream() {
            if !last {
                client.upstream.keep(link);
            }
            return Self::Ready(None);
        }
        Self::Upstream(UpstreamBody {
            incoming,
            source: Source::Link(link),
            last,
            client: client.clone(),
            since: client.upstream.worker().now(),
            broken: None,
        })
    }

    /// The body of a response that came before its request had ended.
    pub(super) fn early(incoming: Incoming, link: Box<Link>, client: &Rc<Client>) -> Self {
        Self::Upstream(UpstreamBody {
            incoming,
            source: Source::Driven(Driven::new(link)),
            last: true,
            client: client.clone(),
            since: client.upstream.worker().now(),
            broken: None,
        })
    }
}

impl UpstreamBody {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        if let Some(why) = self.broken.take() {
            return Poll::Ready(Some(Err(why)));
        }
        let worker = self.client.upstream.worker();
        // What has already been read comes first; only then is the socket looked at.
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Source::Link(link) = &mut self.source
        {
            let _ = link.poll(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match frame {
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.since = worker.now();
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.client.upstream_failed();
                self.break_off(Interrupted::Broken(error), cx)
            }
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let limit = self.client.upstream.timeouts().body_idle.as_nanos() as u64;
                let deadline = self.since.saturating_add(limit);
                let mut alarm = self.client.alarm.borrow_mut();
                std::task::ready!(alarm.poll(cx, worker.now(), deadline));
                self.client.upstream_failed();
                Poll::Ready(Some(Err(Interrupted::Idle)))
            }
        }
    }

    /// hyper closes at once on an error, and forgets what it has not written. The head and the pieces
    /// that came are the client's all the same: so first hyper gets a turn to write them.
    #[cold]
    fn break_off(
        &mut self,
        why: Interrupted,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        self.broken = Some(why);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    #[inline]
    fn give_back(&mut self) {
        if let Source::Link(link) = std::mem::replace(&mut self.source, Source::None)
            && !self.last
        {
            self.client.upstream.keep(link);
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = Interrupted;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        match self.get_mut() {
            Self::Ready(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Absent(_) => Poll::Ready(None),
            Self::Upstream(body) => body.poll(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ready(bytes) => bytes.is_none(),
            // Or hyper would drop the field that says the length.
            Self::Absent(_) => false,
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ready(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Absent(length) => SizeHint::with_exact(*length),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
