//! What a connection and its requests cost, counted by guards whose `Drop` settles the account, so
//! that every way out is counted.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    thread::ThreadId,
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONNECTION, HeaderValue},
    service::Service,
};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use super::{interim::Outbox, rest::Rest, serve::TICKS};
use crate::{
    config::ConnectionTimeouts,
    dispatch::{mode::Arm, shadow::Picks},
    scoreboard::{
        ABORTED, RowRef, Traffic, class,
        count::{add, subtract},
    },
    small_writes::poll_write_pieces,
    sys::clock::monotonic_ns,
};

/// Where a worker's accounts are kept, and who waits for the last to be closed.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) row: RowRef,
    rest: Rest,
    draining: AtomicBool,
    closed: Notify,
    /// The worker's own.
    thread: ThreadId,
    /// See [`Account::tick`].
    ticks: AtomicU32,
}

/// Said with every response while draining, or when connections are to begin anew, so that clients know before the connection closes.
const CLOSE: HeaderValue = HeaderValue::from_static("close");

impl Ledger {
    pub(super) fn new(row: RowRef, rest: Rest) -> Arc<Self> {
        Arc::new(Self {
            row,
            rest,
            draining: AtomicBool::new(false),
            closed: Notify::new(),
            thread: std::thread::current().id(),
            ticks: AtomicU32::new(0),
        })
    }

    /// From now on every response says that its connection will be closed.
    pub(super) fn begin_to_drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Is this the worker's own thread?
    pub(super) fn is_own_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Is nothing new to be taken any more?
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Waits until no connection is open. None may be opened from now on.
    pub(super) async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            if self.row.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}

/// The account of one connection. The last owner to let go of it counts the close: the socket is one
/// of them, so a tunnel that outlives its HTTP connection is still counted as open.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Arc<Ledger>,
    listener: u8,
    arm: Arm,
    /// Where shadow policies would have sent it.
    shadows: Picks,
    /// How often connections had been asked to begin anew when this one did.
    renewals: u64,
    /// Requests begun and not ended on this connection.
    in_flight: AtomicU64,
    /// When it last fell idle or the head being read began, monotonic nanoseconds.
    since: AtomicU64,
    /// Since when the client has taken nothing of what is to be sent, monotonic nanoseconds; 0: it
    /// takes what comes.
    blocked_since: AtomicU64,
    /// 1 once bytes of the next head have arrived.
    head_begun: AtomicU64,
    /// Interim responses on their way.
    outbox: Outbox,
    /// 1 once it has become a tunnel, which has no heads to wait for.
    tunnel: AtomicU64,
    /// It has gone to another process, which serves it now.
    moved: AtomicBool,
}

impl Account {
    /// Opens the account; the connection itself is counted as open by whoever took it.
    pub(super) fn open(
        ledger: &Arc<Ledger>,
        (listener, arm): (u8, Arm),
        shadows: Picks,
    ) -> Arc<Self> {
        let account = Self {
            ledger: ledger.clone(),
            listener,
            arm,
            shadows,
            renewals: ledger.row.board().renewals(),
            in_flight: AtomicU64::new(0),
            since: AtomicU64::new(ledger.row.work.loop_entered.load(Relaxed)),
            blocked_since: AtomicU64::new(0),
            head_begun: AtomicU64::new(0),
            outbox: Outbox::default(),
            tunnel: AtomicU64::new(0),
            moved: AtomicBool::new(false),
        };
        // The user's own threads may adopt connections, too.
        account.traffic().connections.fetch_add(1, Relaxed);
        Arc::new(account)
    }

    #[inline]
    fn traffic(&self) -> &Traffic {
        self.ledger.row.traffic(self.listener, self.arm)
    }

    /// Is the connection to be closed after its next response?
    #[inline]
    fn is_to_go(&self) -> bool {
        let ledger = &self.ledger;
        ledger.draining.load(Relaxed) || ledger.row.board().renewals() != self.renewals
    }

    /// When the client has had its time, monotonic nanoseconds. While a request is under way that is
    /// only while something waits to be sent.
    #[inline]
    pub(super) fn deadline(&self, timeouts: &ConnectionTimeouts) -> Option<u64> {
        let after = |since: u64, limit: Duration| since.saturating_add(limit.as_nanos() as u64);
        let blocked = self.blocked_since.load(Relaxed);
        if blocked > 0 {
            return Some(after(blocked, timeouts.stall));
        }
        if self.in_flight.load(Relaxed) > 0 || self.tunnel.load(Relaxed) > 0 {
            return None;
        }
        let limit = match self.head_begun.load(Relaxed) {
            0 => timeouts.idle,
            _ => timeouts.head,
        };
        Some(after(self.since.load(Relaxed), limit))
    }

    /// The client takes nothing at present.
    #[cold]
    fn blocked(&self) {
        if self.blocked_since.load(Relaxed) == 0 {
            let now = self.ledger.row.work.loop_entered.load(Relaxed);
            self.blocked_since.store(now, Relaxed);
        }
    }

    /// Is nothing under way: no request, no part of one, no answer on its way out?
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
            && self.head_begun.load(Relaxed) == 0
            && self.blocked_since.load(Relaxed) == 0
            && self.tunnel.load(Relaxed) == 0
    }

    pub(super) fn timed_out(&self) {
        add(&self.ledger.row.work.timed_out, 1);
    }

    #[inline]
    fn sent(&self, bytes: usize) {
        add(&self.traffic().sent, bytes as u64);
        self.blocked_since.store(0, Relaxed);
        if self.in_flight.load(Relaxed) == 0 {
            // The end of a response on its way to a slow reader: that is not idle.
            self.since
                .store(self.ledger.row.work.loop_entered.load(Relaxed), Relaxed);
        }
    }

    #[inline]
    fn received(&self, bytes: usize) {
        add(&self.traffic().received, bytes as u64);
        if self.in_flight.load(Relaxed) == 0 && self.head_begun.load(Relaxed) == 0 {
            self.head_begun.store(1, Relaxed);
            self.since
                .store(self.ledger.row.work.loop_entered.load(Relaxed), Relaxed);
        }
    }
}

/// What connections count on which the user's own code speaks, from whatever thread.
impl Account {
    pub(super) fn listener(&self) -> u8 {
        self.listener
    }

    pub(super) fn arm(&self) -> Arm {
        self.arm
    }

    /// The listener and the arm that brought it.
    pub(super) fn origin(&self) -> (u8, Arm) {
        (self.listener, self.arm)
    }

    #[inline]
    pub(super) fn read(&self, bytes: usize) {
        self.traffic().received.fetch_add(bytes as u64, Relaxed);
        self.tick();
    }

    #[inline]
    pub(super) fn wrote(&self, bytes: usize) {
        self.traffic().sent.fetch_add(bytes as u64, Relaxed);
        self.tick();
    }

    /// Its connection is another process's from now on.
    pub(super) fn moved(&self) {
        self.moved.store(true, Relaxed);
    }

    /// Nobody can say whether another process has taken its connection.
    pub(super) fn doubtful(&self) {
        let work = &self.ledger.row.work;
        work.moved_in_doubt.fetch_add(1, Relaxed);
    }

    /// As [`Host::tick`](super::serve::Host), for tasks that the user has started: they may be all that
    /// ever runs. Other threads say nothing of the worker's.
    #[inline]
    fn tick(&self) {
        let ledger = &self.ledger;
        if ledger.ticks.fetch_add(1, Relaxed).is_multiple_of(TICKS) && ledger.is_own_thread() {
            let work = &ledger.row.work;
            work.loop_entered.store(monotonic_ns(), Relaxed);
        }
    }

    /// Counts the end, in whatever thread: a tunnel and an adopted connection may be anywhere.
    fn settle(&self) {
        // One at a time for the shadows' columns, which take no locked instructions.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let work = &self.ledger.row.work;
        if !self.shadows.is_none() {
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            self.ledger.row.shadow.close(self.shadows);
        }
        if self.moved.load(Relaxed) {
            work.moved_out.fetch_add(1, Relaxed);
        }
        self.traffic().closed.fetch_add(1, Relaxed);
        work.closed.fetch_add(1, Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
        self.ledger.rest.load_moved(&self.ledger.row);
        if self.ledger.draining.load(Relaxed) {
            self.ledger.closed.notify_one();
        }
    }
}

/// A way to send interim responses (1xx) to the client of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Interim(pub(super) Arc<Account>);

impl Interim {
    /// Sends one, ahead of the response that is being made. Only to a client of HTTP/1.1.
    pub(crate) fn send(&self, status: hyper::StatusCode, headers: &hyper::HeaderMap) {
        self.0.outbox.put(status, headers);
    }
}

/// A client's socket that counts its bytes.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) stream: TcpStream,
    pub(super) account: Arc<Account>,
}

impl AsyncRead for Counted {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let got = buf.filled().len() - before;
        if got > 0 {
            this.account.received(got);
        }
        result
    }
}

impl Counted {
    #[inline]
    fn sent(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.account.sent(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.account.blocked(),
        }
        result
    }
}

impl AsyncWrite for Counted {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.account.outbox.poll_empty(&mut this.stream, cx))?;
        this.account.outbox.hyper_writes();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.sent(result)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.account.outbox.poll_empty(&mut this.stream, cx))?;
        this.account.outbox.hyper_writes();
        let result = poll_write_pieces(Pin::new(&mut this.stream), cx, bufs);
        this.sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // A TCP socket has nothing to flush; hyper calls this when its own buffer is empty.
        let this = self.get_mut();
        this.account.outbox.hyper_flushed();
        this.account.outbox.poll_empty(&mut this.stream, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Counts a request from its head to the end of its response.
#[derive(Debug)]
struct Ongoing {
    account: Arc<Account>,
    started: u64,
    class: usize,
}

impl Ongoing {
    #[inline]
    fn begin(account: &Arc<Account>) -> Self {
        // When this turn of the loop began, or the request before it ended: what lies between has
        // been waiting for us, so it belongs to the request's time; and the clock need not be asked.
        let started = account.ledger.row.work.loop_entered.load(Relaxed);
        account
            .in_flight
            .store(account.in_flight.load(Relaxed) + 1, Relaxed);
        account.head_begun.store(0, Relaxed);
        add(&account.ledger.row.work.in_flight, 1);
        Self {
            account: account.clone(),
            started,
            class: ABORTED,
        }
    }
}

impl Drop for Ongoing {
    #[inline]
    fn drop(&mut self) {
        let ended = monotonic_ns();
        let (account, traffic) = (&*self.account, self.account.traffic());
        // A fresh time for everybody's "now", and a sign of life of a loop that never rests.
        account.ledger.row.work.loop_entered.store(ended, Relaxed);
        add(&traffic.requests[self.class], 1);
        traffic
            .request_duration
            .record(ended.saturating_sub(self.started));
        subtract(&account.ledger.row.work.in_flight, 1);
        account
            .in_flight
            .store(account.in_flight.load(Relaxed) - 1, Relaxed);
        account.since.store(ended, Relaxed);
    }
}

/// A service whose requests are counted.
#[derive(Debug)]
pub(super) struct Counting<S> {
    pub(super) inner: S,
    pub(super) account: Arc<Account>,
}

impl<S, B> Service<Request<Incoming>> for Counting<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = CountedFuture<S::Future>;

    #[inline]
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let guard = Ongoing::begin(&self.account);
        CountedFuture {
            inner: self.inner.call(request),
            guard: Some(guard),
        }
    }
}

pin_project! {
    pub(super) struct CountedFuture<F> {
        #[pin]
        inner: F,
        guard: Option<Ongoing>,
    }
}

impl<F, B, E> Future for CountedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let mut guard = this.guard.take();
        if let Some(guard) = &mut guard {
            let status = response.status();
            guard.class = class(status.as_u16());
            if status == hyper::StatusCode::SWITCHING_PROTOCOLS {
                guard.account.tunnel.store(1, Relaxed);
            } else if guard.account.is_to_go() {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
        }
        Poll::Ready(Ok(response.map(|inner| CountedBody { inner, guard })))
    }
}

pin_project! {
    /// A response's body; its end is the end of the request.
    pub(super) struct CountedBody<B> {
        #[pin]
        inner: B,
        guard: Option<Ongoing>,
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn every_end_is_counted_in_whatever_thread() {
        let board = Scoreboard::create().expect("memory");
        let row = board.occupy(0, 1).expect("a row");
        let ledger = Ledger::new(row.clone(), Rest::new().expect("a bell"));
        let origin = (0, Arm::ALL[0]);
        const EACH: u64 = 100_000;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        drop(Account::open(&ledger, origin, Picks::NONE));
                    }
                });
            }
        });
        let traffic = row.traffic(origin.0, origin.1);
        assert_eq!(traffic.connections.load(Relaxed), 2 * EACH);
        assert_eq!(traffic.closed.load(Relaxed), 2 * EACH);
        assert_eq!(row.work.closed.load(Relaxed), 2 * EACH);
    }
}
