//! The admin interface: what the cluster does now, over HTTP. Read-only; answered by the master's
//! control runtime from the scoreboard, so a worker that hangs cannot keep it waiting. Browsers get a
//! page that shows all of it.

mod files;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, VARY,
        X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit};
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use serde::Serialize;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, spawn_local},
};

use super::{
    control::{NOT_COMPARED, Reports},
    places::attend_each,
};
use crate::{
    compare::Report,
    error::{Error, Result},
    metrics::ScoreboardCollector,
    scoreboard::histogram::Snapshot,
    status::Status,
};

/// Connections answered at once; more wait in the backlog. Fewer where descriptors are few: whoever
/// looks on must not keep the cluster from working.
const MAX_CONNECTIONS: usize = 64;

fn connections_at_once() -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    (limit as usize / 16).clamp(4, MAX_CONNECTIONS)
}

/// The admin interface: a listener, and whoever answers there.
#[derive(Debug)]
pub(super) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    answering: Option<JoinHandle<()>>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(answering) = &self.answering {
            answering.abort();
        }
    }
}

impl AsFd for Admin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn refused(address: impl std::fmt::Display) -> impl Fn(io::Error) -> Error {
    move |error| {
        let what = format!("cannot serve the admin interface on {address}");
        Error::runtime(what, error)
    }
}

impl Admin {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let refused = refused(address);
        Self::on(TcpListener::bind(address).map_err(&refused)?).map_err(&refused)
    }

    /// Goes on with a listener that is there already.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn on(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            answering: None,
        })
    }

    /// Where it is, with its real port.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts answering, until it is dropped.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn serve(mut self, status: &Status) -> Result<Self> {
        let refused = refused(self.address);
        let registry = Registry::new();
        let collectors: [Box<dyn prometheus::core::Collector>; 2] = [
            Box::new(ScoreboardCollector::new(status.clone())),
            Box::new(ProcessCollector::for_self()),
        ];
        for collector in collectors {
            registry
                .register(collector)
                .map_err(|error| Error::failed(format!("metrics: {error}")))?;
        }
        let listener = self.listener.try_clone().map_err(&refused)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(&refused)?;
        let status = status.clone();
        let places = Arc::new(Semaphore::new(connections_at_once()));
        self.answering = Some(spawn_local(attend_each(
            places.clone(),
            async move || listener.accept().await.map(|(stream, _)| stream),
            move |stream| attend(stream, status.clone(), registry.clone(), places.clone()),
        )));
        Ok(self)
    }
}

async fn attend(stream: TcpStream, status: Status, registry: Registry, places: Arc<Semaphore>) {
    let service = service_fn(|request| {
        let mut answer = answer(&request, &status, &registry);
        // The pages of many people keep their connections for as long as they are looked at. Nobody who asks
        // whether the cluster is healthy is to wait for that.
        if places.available_permits() == 0 {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    // An error is the client's: it has gone, or does not speak HTTP.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Full<Bytes>>;

/// What there is, for people who ask by hand.
const LIST: &str = "\
pointsman

/metrics     for Prometheus
/status      what the master says about itself
/workers     who is in which seat
/live        all counters, for whoever takes differences
/comparison  the comparison that goes on, or the last one; /comparison?brief without its histograms
/healthz     200 while the master answers
/readyz      200 while at least one worker takes connections
/page        all of this to look at, for browsers; they get it at / too
";

/// Answers a request; its body, if there is one, is nothing to us.
fn answer<B>(request: &Request<B>, status: &Status, registry: &Registry) -> Answer {
    let mut answer = if [Method::GET, Method::HEAD].contains(request.method()) {
        route(request, status, registry)
    } else {
        let mut refusal = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "the admin interface is read-only\n",
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        refusal
    };
    let headers = answer.headers_mut();
    // What a browser makes of an answer is ours to say; where somebody looks is nobody's business.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // What the cluster does now is never what it did.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn route<B>(request: &Request<B>, status: &Status, registry: &Registry) -> Answer {
    let path = request.uri().path();
    match path {
        "/metrics" => metrics(registry),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(status),
        "/workers" => json(&status.workers()),
        "/status" => json(&status.status()),
        "/live" => json(&status.live()),
        "/comparison" if request.uri().query() == Some("brief") => {
            json(&status.comparison().map(brief))
        }
        "/comparison" => match status.comparison() {
            Some(comparison) => json(&comparison),
            None => text(StatusCode::NOT_FOUND, format!("{NOT_COMPARED}\n")),
        },
        "/" => {
            let mut answer = if files::is_for_a_browser(request.headers()) {
                files::PAGE.answer(request.headers())
            } else {
                text(StatusCode::OK, LIST)
            };
            let by = HeaderValue::from_static("accept");
            answer.headers_mut().insert(VARY, by);
            answer
        }
        _ => match files::find(path) {
            Some(file) => file.answer(request.headers()),
            None => text(
                StatusCode::NOT_FOUND,
                "not here; / lists what there is: /metrics, /status, /workers, /live …\n",
            ),
        },
    }
}

/// A comparison for whoever asks for it again and again: its histograms and what was open when are left
/// out, as nine tenths of it.
fn brief(mut report: Report) -> Report {
    for block in &mut report.comparison.blocks {
        block.latency = Snapshot::default();
        block.handoff = Snapshot::default();
        block.open.clear();
    }
    report
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

fn metrics(registry: &Registry) -> Answer {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(page) => with_type(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            page,
        ),
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics: {error}\n"),
        ),
    }
}

/// Ready: at least one worker takes connections, and the cluster is not on its way out or paused.
fn readiness(status: &Status) -> Answer {
    let report = status.status();
    let code = match (report.state.as_str(), report.workers_ready) {
        ("starting" | "running", 1..) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let (ready, of) = (report.workers_ready, report.workers);
    text(code, format!("{ready} of {of} workers ready\n"))
}

fn json(report: &impl Serialize) -> Answer {
    match serde_json::to_vec_pretty(report) {
        Ok(mut json) => {
            json.push(b'\n');
            with_type(StatusCode::OK, "application/json", json)
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("report: {error}\n"),
        ),
    }
}

#[cfg(test)]
mod tests;
