//! The admin interface: what the cluster does now, over HTTP. Read-only; answered by the master's
//! control runtime from the scoreboard, so a worker that hangs cannot keep it waiting.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use serde::Serialize;
use tokio::{net::TcpListener, sync::Semaphore, task::spawn_local, time::sleep};

use crate::{
    error::{Error, Result},
    metrics::ScoreboardCollector,
    scoreboard::{Row, State},
    status::{Seat, Status},
};

/// Connections answered at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;

/// Starts answering on `address`. Returns the address with its real port.
///
/// # Errors
/// The address is in use, not ours, or not permitted.
pub(super) async fn start(address: SocketAddr, status: Status) -> Result<SocketAddr> {
    let refused = |error| {
        Error::runtime(
            format!("cannot serve the admin interface on {address}"),
            error,
        )
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    spawn_local(async move {
        loop {
            // One that is refused stays in the backlog, and holds no descriptor of the master's.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely. Rest rather than spin; the metrics say why.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (status, registry) = (status.clone(), registry.clone());
            spawn_local(async move {
                let _place = place;
                let service = service_fn(|request| {
                    std::future::ready(Ok::<_, Infallible>(answer(&request, &status, &registry)))
                });
                // An error is the client's: it has gone, or does not speak HTTP.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(bound)
}

type Answer = Response<Full<Bytes>>;

fn answer(request: &Request<Incoming>, status: &Status, registry: &Registry) -> Answer {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "the admin interface is read-only\n",
        );
        refusal
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match request.uri().path() {
        "/metrics" => metrics(registry),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(status),
        "/workers" => workers(status),
        "/" => text(
            StatusCode::OK,
            "pointsman\n\n/metrics  /workers  /healthz  /readyz\n",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "not here; try /metrics, /workers, /healthz, /readyz\n",
        ),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
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

/// Ready: at least one worker takes connections, and the cluster is not on its way out.
fn readiness(status: &Status) -> Answer {
    let ready = status
        .board
        .occupied()
        .filter(|row| row.state() == State::Ready)
        .count();
    let code = match (status.lock().stopping, ready) {
        (false, 1..) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(
        code,
        format!("{ready} of {} workers ready\n", status.workers),
    )
}

/// What `/workers` says about one seat.
#[derive(Serialize)]
struct WorkerReport {
    worker: String,
    pid: Option<i32>,
    generation: u64,
    state: &'static str,
    /// Is its loop waiting for something to do?
    parked: bool,
    connections_open: u64,
    /// Connections that it has or is about to get: what `least-loaded` goes by.
    load: u32,
    requests_in_flight: u64,
    connections_handed_over: u64,
    connections_self_accepted: u64,
    cpu_seconds: f64,
    restarts: u64,
    /// Deaths in a row, none of them after a healthy life.
    crash_loop: u32,
}

#[derive(Serialize)]
struct WorkersReport {
    mode: &'static str,
    policy: &'static str,
    listeners: Vec<String>,
    workers: Vec<WorkerReport>,
}

fn workers(status: &Status) -> Answer {
    let known = status.lock();
    let reports = known.seats.iter().map(|(number, seat)| {
        let row: Option<&Row> = status
            .board
            .occupied()
            .filter(|row| row.birth.seat.load(Relaxed) == u64::from(*number))
            .max_by_key(|row| row.birth.generation.load(Relaxed));
        let count = |of: fn(&Row) -> u64| row.map_or(0, of);
        WorkerReport {
            worker: Seat::label(*number),
            pid: seat.pid,
            generation: seat.generation,
            state: row.map_or("dead", |row| row.state().name()),
            parked: count(|row| row.work.parked.load(Relaxed)) == 1,
            connections_open: count(Row::open),
            load: row.map_or(0, Row::load),
            requests_in_flight: count(|row| row.work.in_flight.load(Relaxed)),
            connections_handed_over: count(|row| row.work.claimed.load(Relaxed)),
            connections_self_accepted: count(|row| row.work.self_accepted.load(Relaxed)),
            cpu_seconds: seat.cpu().as_secs_f64(),
            restarts: seat.restarts.values().sum(),
            crash_loop: seat.crash_loop,
        }
    });
    let report = WorkersReport {
        mode: known.arm.mode().name(),
        policy: known.arm.policy_name(),
        listeners: status.listeners.to_vec(),
        workers: reports.collect(),
    };
    match serde_json::to_vec_pretty(&report) {
        Ok(mut json) => {
            json.push(b'\n');
            with_type(StatusCode::OK, "application/json", json)
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("workers: {error}\n"),
        ),
    }
}
