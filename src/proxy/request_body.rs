//! The body of a request on its way to the upstream.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

/// How far the client's part has come; looked at by whoever awaits the response.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last byte has been passed on.
    pub(super) finished: Cell<bool>,
    /// The client broke off.
    pub(super) failed: Cell<bool>,
    /// A piece has been passed on since somebody looked.
    pub(super) moved: Cell<bool>,
    /// The client is being waited for.
    pub(super) starved: Cell<bool>,
}

/// A request's body, streamed: no more of it is held than one piece.
#[derive(Debug, Default)]
pub(super) struct RequestBody(Option<Streaming>);

#[derive(Debug)]
struct Streaming {
    incoming: Incoming,
    progress: Rc<Progress>,
    gate: Option<Gate>,
}

impl RequestBody {
    /// A body that is passed on as it comes; `gate` holds it back until the upstream wants it.
    pub(super) fn streaming(incoming: Incoming, gate: Option<Gate>) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        (
            Self(Some(Streaming {
                incoming,
                progress: progress.clone(),
                gate,
            })),
            progress,
        )
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        if let Some(gate) = &mut body.gate {
            std::task::ready!(gate.poll_open(cx));
            body.gate = None;
        }
        let polled = Pin::new(&mut body.incoming).poll_frame(cx);
        body.progress.starved.set(polled.is_pending());
        let frame = std::task::ready!(polled);
        body.progress.moved.set(true);
        match &frame {
            None => body.progress.finished.set(true),
            Some(Err(_)) => body.progress.failed.set(true),
            Some(Ok(_)) => body.progress.finished.set(body.incoming.is_end_stream()),
        }
        // Trailers are not passed on: nobody has asked for them (RFC 9110, section 6.5.1).
        match frame {
            Some(Ok(frame)) if frame.is_trailers() => {
                body.progress.finished.set(true);
                Poll::Ready(None)
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.incoming.size_hint())
    }
}

/// How long an upstream that says nothing to `Expect: 100-continue` is waited for before the body is
/// sent all the same (RFC 9110, section 10.1.1, allows that and names no time).
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds a body back until the upstream has said `100 Continue`. Asking the client for its body is
/// what makes hyper send the client its `100 Continue`, so the upstream's answer passes through.
#[derive(Debug)]
pub(super) struct Gate {
    key: GateKey,
    patience: Pin<Box<Sleep>>,
}

/// Opens a [`Gate`]. `Send`, because hyper wants its callback so; it never leaves the thread.
#[derive(Debug, Clone, Default)]
pub(super) struct GateKey(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    pub(super) fn closed() -> (Self, GateKey) {
        let key = GateKey::default();
        (
            Self {
                key: key.clone(),
                patience: Box::pin(sleep(PATIENCE)),
            },
            key,
        )
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.key.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        drop(state);
        self.patience.as_mut().poll(cx)
    }
}

impl GateKey {
    pub(super) fn open(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(waiting) = state.1.take() {
            waiting.wake();
        }
    }
}
