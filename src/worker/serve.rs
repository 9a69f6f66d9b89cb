//! Serving: from a connection to its last response.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
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

/// How long after its arrival a connection that has sent nothing is kept while draining, nanoseconds.
const DRAIN_GRACE: u64 = 1_000_000_000;

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
        self.0.drain.begin();
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
            if drain.begun() && !told {
                // hyper closes at once what has not sent a byte yet. Its request may be in the socket
                // already: a connection taken a moment ago gets a moment to show it.
                if account.is_untouched() {
                    deadline = deadline.map(|d| d.min(account.opened() + DRAIN_GRACE));
                } else {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                    if connection.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            std::task::ready!(alarm.poll(cx, worker.now(), deadline));
            account.timed_out();
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
