//! Routing, and the routes that need no file of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    VARY,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::answer::{plain, typed};
use super::body::{Body, Fnv1a64};
use super::{App, page, query, websocket};

/// The longest `/slow` will wait, in milliseconds.
const SLOW_MAX: u64 = 60_000;

/// The longest `/spin` will keep the core busy, in microseconds.
const SPIN_MAX: u64 = 100_000;

/// The most `/bytes` will send.
const BYTES_MAX: u64 = 1 << 30;

/// What a 404 tells.
const ROUTES: &str = "no such route; there are / /slow?ms=N /spin?us=N /bytes?n=N[&chunked=1] \
                      /echo /hash /headers /status?code=N[&body=TEXT] /ws\n";

const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");

/// Answers one request.
pub(super) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let name = app.name_field.clone();
    let is_head = request.method() == Method::HEAD;
    let mut response = route(app, request).await;
    response.headers_mut().insert(X_UPSTREAM, name);
    // hyper counts the body it leaves out of the answer to a `HEAD`, but not one of no bytes: that
    // is how an answer which has no body at all looks to it.
    if is_head && response.body().size_hint().exact() == Some(0) && has_body(response.status()) {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

async fn route(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/" if reads(request.method()) => root(&app, request.headers()),
        "/slow" => slow(&app, request).await,
        "/spin" => spin(&app, request).await,
        "/bytes" if reads(request.method()) => bytes(request.uri().query()),
        "/echo" => echo(request),
        "/hash" if [Method::POST, Method::PUT].contains(request.method()) => {
            hash(request.into_body()).await
        }
        "/headers" => headers(request).await,
        "/status" => status(request).await,
        "/ws" if request.method() == Method::GET => websocket::upgrade(&app, request),
        "/" | "/bytes" => not_allowed("GET, HEAD"),
        "/hash" => not_allowed("POST, PUT"),
        // `HEAD` cannot upgrade, and is told what a `GET` that does not try to would be.
        "/ws" if request.method() == Method::HEAD => websocket::required(),
        "/ws" => not_allowed("GET, HEAD"),
        _ => plain(StatusCode::NOT_FOUND, ROUTES),
    }
}

/// Whether a final answer of this status has a body, be it an empty one.
fn has_body(status: StatusCode) -> bool {
    ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// hyper leaves the body out of the answer to a `HEAD`, so the routes need not tell them apart.
fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn bad_request(line: impl Into<Body>) -> Response<Body> {
    plain(StatusCode::BAD_REQUEST, line)
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = plain(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this route answers to {methods}\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn root(app: &App, headers: &HeaderMap) -> Response<Body> {
    let wants_page = headers.get_all(ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains("text/html"))
    });
    let mut response = if wants_page {
        let page = page::render(&app.name, headers);
        let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", page.into());
        // It shows this very request.
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    } else {
        plain(StatusCode::OK, app.hello.clone())
    };
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("accept"));
    response
}

async fn slow(app: &App, request: Request<Incoming>) -> Response<Body> {
    let ms = match query::number(request.uri().query(), "ms", 0..=SLOW_MAX) {
        Ok(ms) => ms,
        Err(line) => return bad_request(line),
    };
    if let Err(response) = drain(request.into_body()).await {
        return response;
    }
    tokio::time::sleep(Duration::from_millis(ms)).await;
    plain(StatusCode::OK, format!("{} took {ms} ms\n", app.name))
}

/// Keeps the core busy instead of waiting: a timer's millisecond would be far too coarse, and work that an
/// upstream has to do takes the core from others too.
async fn spin(app: &App, request: Request<Incoming>) -> Response<Body> {
    let us = match query::number(request.uri().query(), "us", 0..=SPIN_MAX) {
        Ok(us) => us,
        Err(line) => return bad_request(line),
    };
    if let Err(response) = drain(request.into_body()).await {
        return response;
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(us) {
        std::hint::spin_loop();
    }
    plain(StatusCode::OK, app.hello.clone())
}

fn bytes(query: Option<&str>) -> Response<Body> {
    let asked = query::number(query, "n", 0..=BYTES_MAX)
        .and_then(|length| Ok((length, query::switch(query, "chunked")?)));
    match asked {
        Ok((length, chunked)) => typed(
            StatusCode::OK,
            "application/octet-stream",
            Body::pattern(length, !chunked),
        ),
        Err(line) => bad_request(line),
    }
}

/// Nothing is held: hyper reads the next piece of the body when the last is written, so a client
/// that sends without reading is held back once the sockets are full.
fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers_mut().remove(CONTENT_TYPE);
    let mut response = Response::new(Body::Echo(request.into_body()));
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

async fn hash(mut body: Incoming) -> Response<Body> {
    let mut bytes = 0;
    let mut fnv = Fnv1a64::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    bytes += data.len();
                    fnv.update(data);
                }
            }
            Err(error) => return broken(&error),
        }
    }
    let json = format!(
        "{{\"bytes\":{bytes},\"fnv1a64\":\"{:016x}\"}}\n",
        fnv.finish()
    );
    typed(StatusCode::OK, "application/json", json.into())
}

/// The request head as this server received it.
///
/// hyper keeps the order of the names and, within a name, of its values; it brings the values of a
/// repeated name together at its first place, and names are in lower case.
#[derive(Serialize)]
struct Head<'a> {
    method: &'a str,
    target: String,
    version: String,
    headers: Vec<(&'a str, String)>,
}

async fn headers(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if let Err(response) = drain(body).await {
        return response;
    }
    // A value need not be UTF-8. As Latin-1 every byte is one character: nothing is lost.
    let latin1 = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
    let head = Head {
        method: head.method.as_str(),
        target: head.uri.to_string(),
        version: format!("{:?}", head.version),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), latin1(value)))
            .collect(),
    };
    match serde_json::to_vec(&head) {
        Ok(json) => typed(StatusCode::OK, "application/json", json.into()),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn status(request: Request<Incoming>) -> Response<Body> {
    // 1xx are no final answers, and hyper would refuse to send one as such.
    let code = query::number(request.uri().query(), "code", 200..=599)
        .map(|code| StatusCode::from_u16(code as u16));
    let code = match code {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => return bad_request(format!("{error}\n")),
        Err(line) => return bad_request(line),
    };
    let text = query::find(request.uri().query(), "body");
    if let Err(response) = drain(request.into_body()).await {
        return response;
    }
    // A 205 has a body of no bytes (RFC 9110, section 15.3.6).
    if !has_body(code) || code == StatusCode::RESET_CONTENT {
        let mut response = Response::new(Body::from(""));
        *response.status_mut() = code;
        return response;
    }
    plain(code, text.unwrap_or_else(|| format!("{code}\n")))
}

/// Reads a body nobody wants to its end. Answering over an unread body would make hyper close the
/// connection, and whether it does would depend on how the segments fell.
async fn drain(mut body: Incoming) -> Result<(), Response<Body>> {
    while let Some(frame) = body.frame().await {
        if let Err(error) = frame {
            return Err(broken(&error));
        }
    }
    Ok(())
}

/// A body that ended before its end. Where the connection is gone too, nobody will read this.
fn broken(error: &hyper::Error) -> Response<Body> {
    bad_request(format!("the request body broke off: {error}\n"))
}
