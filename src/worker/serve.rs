//! Serving: from a connection to its last response.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Worker,
    account::{Account, Counted, Counting, Interim, Ledger},
    alarm::Alarm,
    app::{Application, Peer},
    drain::Drain,
    rest::Rest,
};
use crate::{config::ConnectionTimeouts, conn::Conn, sys::clock::monotonic_ns};

/// How long a connection on which nothing happens is kept while draining. A client that uses it within
/// that time is told with its answer that it was the last; one whose request meets a close halfway
/// would have to try again.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Serves connections with the worker's application. Cheap to clone.
pub(super) struct Host<A>(Rc<Inner<A>>);

struct Inner<A> {
    worker: Worker,
    ledger: Arc<Ledger>,
    application: A,
    http: http1::Builder,
    drain: Drain,
    timeouts: ConnectionTimeouts,
    rest: Rest,
    ticks: Cell<u32>,
}

impl<A> Clone for Host<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Application> Host<A> {
    pub(super) fn new(worker: &Worker, application: A, rest: Rest) -> Self {
        // `half_close` stays off: a client that closes has gone, and its request is cancelled. The
        // timeouts are the alarm's business in `converse`. `pipeline_flush` stays off too: it would
        // copy every body into one buffer with its head.
        let http = http1::Builder::new();
        Self(Rc::new(Inner {
            worker: worker.clone(),
            ledger: Ledger::new(worker.row().clone(), rest.clone()),
            application,
            http,
            drain: Drain::default(),
            timeouts: worker.inheritance.timeouts,
            rest,
            ticks: Cell::new(0),
        }))
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.0.worker
    }

    pub(super) fn rest(&self) -> &Rest {
        &self.0.rest
    }

    /// Tells every connection to finish, and waits until none is open, tunnels included.
    pub(super) async fn drain(&self) {
        self.0.ledger.begin_to_drain();
        // In a hurry: a quarter of what there is.
        let grace = DRAIN_GRACE.min(self.0.worker.inheritance.drain_timeout / 4);
        self.0.drain.begin(monotonic_ns() + grace.as_nanos() as u64);
        self.0.ledger.all_closed().await;
    }

    /// Starts serving `conn`, which the caller has counted as taken. Whatever goes wrong with it ends
    /// it alone.
    pub(super) fn welcome(&self, conn: Conn) {
        let inner = &self.0;
        let account = Account::open(&inner.ledger, &conn);
        let peer = Peer::new(&conn, Interim(account.clone()));
        let Ok(stream) = stream(conn) else { return };
        tokio::task::spawn_local(self.clone().converse(stream, peer, account));
    }

    /// The connection's life, in a task of its own from the first word of the application's on: should
    /// that panic, it costs this connection. Errors are the client's or have been answered: nothing
    /// is left to do but to close.
    async fn converse(self, stream: TcpStream, peer: Peer, account: Arc<Account>) {
        let Inner {
            http,
            drain,
            timeouts,
            worker,
            ..
        } = &*self.0;
        let service = Counting {
            inner: self.0.application.service(&peer),
            account: account.clone(),
        };
        let io = TokioIo::new(Counted {
            stream,
            account: account.clone(),
        });
        let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
        let mut alarm = Alarm::default();
        let mut place = None;
        let mut told = false;
        poll_fn(|cx| {
            self.0.tick();
            place.get_or_insert_with(|| drain.enter(cx));
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut deadline = account.deadline(timeouts);
            if let Some(grace) = drain.begun().filter(|_| !told) {
                if account.is_idle() && worker.now() < grace {
                    deadline = deadline.map(|d| d.min(grace));
                } else {
                    // What is under way ends as it should; hyper closes what is idle.
                    told = true;
                    connection.as_mut().graceful_shutdown();
                    if connection.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    deadline = account.deadline(timeouts);
                }
            }
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            std::task::ready!(alarm.poll(cx, worker.now(), deadline));
            if drain.begun().is_none() || !account.is_idle() {
                account.timed_out();
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// Polls of connections between two looks at the clock in a loop that never rests.
const TICKS: u32 = 16;

impl<A> Inner<A> {
    /// Keeps the loop's "now" from growing old: tokio's hooks, which set it, are not called while
    /// tasks are always ready to run.
    #[inline]
    fn tick(&self) {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        if ticks.is_multiple_of(TICKS) {
            self.worker
                .row()
                .work
                .loop_entered
                .store(monotonic_ns(), Relaxed);
        }
    }
}

fn stream(conn: Conn) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(conn.socket))
}
