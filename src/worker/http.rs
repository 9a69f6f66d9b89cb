//! HTTP/1.1 with an application: from a connection to its last response.

use std::{future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Worker,
    account::{Account, Counted, Counting, Interim},
    alarm::Alarm,
    app::{Application, Peer},
    drain::Drain,
    moved::Moved,
    serve::{Host, Protocol},
};
use crate::{config::ConnectionTimeouts, conn::Accepted, sys::clock::monotonic_ns};

/// How long a connection on which nothing happens is kept while draining. A client that uses it within
/// that time is told with its answer that it was the last; one whose request meets a close halfway
/// would have to try again.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Speaks HTTP/1.1, and has an application answer.
pub(crate) struct Http<A> {
    application: A,
    http: http1::Builder,
    drain: Drain,
    timeouts: ConnectionTimeouts,
}

impl<A> Http<A> {
    pub(super) fn new(worker: &Worker, application: A) -> Self {
        Self {
            application,
            // `half_close` stays off: a client that closes has gone, and its request is cancelled. The
            // timeouts are the alarm's business in `converse`. `pipeline_flush` stays off too: it would
            // copy every body into one buffer with its head.
            http: http1::Builder::new(),
            drain: Drain::default(),
            timeouts: worker.inheritance.timeouts,
        }
    }
}

impl<A: Application> Protocol for Http<A> {
    fn serve(
        host: &Host<Self>,
        conn: Accepted,
        account: Arc<Account>,
        moved: Option<Moved>,
    ) -> io::Result<()> {
        let peer = Peer::new(&conn, Interim(account.clone()), moved);
        let stream = TcpStream::from_std(std::net::TcpStream::from(conn.socket))?;
        tokio::task::spawn_local(converse(host.clone(), stream, peer, account));
        Ok(())
    }

    fn drain(&self, worker: &Worker) {
        // In a hurry: a quarter of what there is.
        let grace = DRAIN_GRACE.min(worker.inheritance.drain_timeout / 4);
        self.drain.begin(monotonic_ns() + grace.as_nanos() as u64);
    }
}

/// The connection's life, in a task of its own from the first word of the application's on: should
/// that panic, it costs this connection. Errors are the client's or have been answered: nothing
/// is left to do but to close.
async fn converse<A: Application>(
    host: Host<Http<A>>,
    stream: TcpStream,
    peer: Peer,
    account: Arc<Account>,
) {
    let Http {
        application,
        http,
        drain,
        timeouts,
    } = host.protocol();
    let worker = host.worker();
    let service = Counting {
        inner: application.service(&peer),
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
        host.tick();
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
