//! The demo upstream: an ordinary small HTTP/1.1 app.
//!
//! `pointsman serve --demo` runs it as a process of its own beside the proxy, and the integration
//! tests use it as the server behind. It knows nothing of Pointsman: whatever it sees came over a
//! socket, so what it reports (`/headers`) is what any upstream would have seen.
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | `hello from <name>`, or a page where `Accept` has `text/html` |
//! | `/slow?ms=N` | a line, after N ms (at most 60000) |
//! | `/spin?us=N` | as `/`, after N µs (at most 100000) in which nobody else is answered |
//! | `GET /bytes?n=N[&chunked=1]` | N bytes (at most 1 GiB) of [`pattern_byte`] |
//! | `/echo` | the request body, as it comes |
//! | `POST /hash` | `{"bytes":N,"fnv1a64":"…"}` of the request body |
//! | `/headers` | the request head as received, as JSON |
//! | `/status?code=N[&body=TEXT]` | that status (200 to 599) |
//! | `GET /ws` | WebSocket echo |
//!
//! A route shown without a method answers to any. `HEAD` is answered wherever `GET` is, with the
//! `Content-Length` of the `GET`. Every answer the app gives carries `x-upstream: <name>`; only a
//! request too broken to reach it (hyper's own 400) is answered without.

mod answer;
mod body;
mod page;
mod query;
mod routes;
#[cfg(test)]
mod tests;
mod websocket;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub use body::pattern_byte;

/// How long requests and WebSockets under way at the stop may take to end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// How long to leave the listener alone after an error that lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the server is on its way out. Ordered: a later phase includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Serving.
    Serve,
    /// No new connections or requests; what has begun may end.
    Drain,
    /// Grace is over: drop everything.
    Abort,
}

/// What all connections share.
struct App {
    name: String,
    /// `x-upstream`, made once.
    name_field: HeaderValue,
    /// The plain answer of `/`, made once: under load it is all the app does.
    hello: Bytes,
    phase: watch::Receiver<Phase>,
}

/// Serves the demo app on `listener` until `stop` completes.
///
/// At the stop the listener closes and idle connections are dropped; a request under way gets up
/// to five seconds to be answered, a WebSocket as long to answer the close frame it is sent. Then
/// this returns, with none of its connections left. Where the future is dropped instead, its
/// connections end at once.
///
/// It spawns with [`tokio::spawn`], and one current-thread runtime is enough for it.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] where `name` cannot stand in a header field. Errors of `accept`
/// are outlived, not returned.
pub async fn serve(
    listener: TcpListener,
    name: &str,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(listener, name, stop, GRACE).await
}

/// [`serve`], with the grace to choose: the tests have none to spare.
async fn serve_within(
    listener: TcpListener,
    name: &str,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<()> {
    let name_field = HeaderValue::from_str(name)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (phase, watched) = watch::channel(Phase::Serve);
    let app = Arc::new(App {
        name: name.to_owned(),
        name_field,
        hello: Bytes::from(format!("hello from {name}\n")),
        phase: watched,
    });

    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&app)));
            }
            Err(error) => {
                if let Some(pause) = accept_pause(&error) {
                    tokio::select! {
                        biased;
                        () = &mut stop => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    drop(listener);
    // Every task holds the app, and with it a receiver: the channel is closed when all have ended,
    // so this one has to go first.
    drop(app);
    phase.send_replace(Phase::Drain);
    if tokio::time::timeout(grace, phase.closed()).await.is_err() {
        phase.send_replace(Phase::Abort);
        phase.closed().await;
    }
    Ok(())
}

/// How long to wait after a failed `accept`; `None` where the next may succeed at once.
///
/// Out of descriptors (`EMFILE`, `ENFILE`) or memory, the connection stays in the backlog and the
/// listener readable: an immediate retry would spin. A connection that died while it waited is
/// gone, and says nothing about the next.
fn accept_pause(error: &io::Error) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => None,
        _ => Some(ACCEPT_PAUSE),
    }
}

/// Serves one connection until it ends, is upgraded, or the phase ends it.
async fn connection(stream: TcpStream, app: Arc<App>) {
    // Answers are written whole: there is nothing to gather, only a delayed ACK to wait for. A
    // failure means the peer is gone, which the first read will tell.
    let _ = stream.set_nodelay(true);

    let mut phase = app.phase.clone();
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(routes::answer(app, request).await) }
    });
    let mut served = pin!(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );

    // What ends a connection early (a reset, a broken request) is the peer's affair: nobody here
    // could do anything about it.
    tokio::select! {
        biased;
        _ = served.as_mut() => return,
        () = reached(&mut phase, Phase::Drain) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = served => {}
        () = reached(&mut phase, Phase::Abort) => {}
    }
}

/// Waits until the server is in `wanted` or a later phase; a server whose future was dropped is in
/// the last one.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}
