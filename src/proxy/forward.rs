//! Forwarding: from a client's request to its response.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    client::conn::TrySendError,
    header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING},
    upgrade::OnUpgrade,
};

use super::{
    Client,
    body::ProxyBody,
    fault::Fault,
    headers,
    request_body::{Gate, GateKey, Progress, RequestBody},
    tunnel,
    upstream::Link,
};
use crate::{scoreboard::count::add, worker::Interim};

/// Answers one request. What cannot be forwarded is answered by us.
pub(super) async fn forward(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Infallible> {
    match exchange(&client, request).await {
        Ok(response) => Ok(response),
        Err(fault) => {
            if fault.is_upstreams() {
                client.upstream_failed();
            }
            Ok(fault.response().map(ProxyBody::from))
        }
    }
}

impl Client {
    /// Counts a request that failed by the upstream's fault.
    pub(super) fn upstream_failed(&self) {
        let row = self.upstream.worker().row();
        add(
            &row.traffic(self.peer.listener() as u8, self.peer.arm())
                .upstream_failures,
            1,
        );
    }
}

/// A request ready to be sent, and what its sender must know of it.
struct Outgoing {
    request: Request<RequestBody>,
    /// Where its body stands; `None` if it has none.
    progress: Option<Rc<Progress>>,
    /// The client's side of a switch of protocols, if it asked for one.
    upgrade: Option<OnUpgrade>,
    /// The client named no host, as HTTP/1.0 allows.
    hostless: bool,
}

async fn exchange(
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Fault> {
    let mut outgoing = prepare(client, request)?;
    let mut fresh_only = false;
    // Each endpoint may refuse once; every kept connection that turns out to be dead is used up.
    let mut refusals = 0;
    loop {
        let endpoint = client.upstream.select();
        let reused = if fresh_only {
            None
        } else {
            client.upstream.reuse(endpoint)
        };
        let was_reused = reused.is_some();
        if outgoing.hostless {
            // HTTP/1.1, which the upstream is spoken to in, wants one (RFC 9112, section 3.2).
            let host = client.upstream.host(endpoint);
            outgoing.request.headers_mut().insert(HOST, host);
        }
        let link = match reused {
            Some(link) => link,
            None => match client.upstream.connect(endpoint).await {
                Ok(link) => link,
                Err(error) => {
                    refusals += 1;
                    let fault = Fault::of_connecting(&error);
                    if refusals < client.upstream.len() && fault != Fault::Exhausted {
                        continue;
                    }
                    return Err(fault);
                }
            },
        };
        // A kept connection may have been closed by the other end just now, unseen. Only a request
        // that may be repeated may be sent again then (RFC 9110, section 9.2.2).
        let repeatable =
            was_reused && outgoing.progress.is_none() && outgoing.request.method().is_idempotent();
        let memo = repeatable.then(|| Memo::of(client, &outgoing.request));
        let upgrade = outgoing.upgrade.take();
        let progress = outgoing.progress.as_deref();
        match attempt(client, link, was_reused, outgoing.request, progress).await {
            Ok((response, link)) => {
                return answer(client, response, link, progress, upgrade);
            }
            Err(Failure::Unsent(request)) if was_reused => {
                outgoing = Outgoing {
                    request: *request,
                    upgrade,
                    ..outgoing
                };
            }
            Err(Failure::NoAnswer(Fault::Broken)) if memo.is_some() => {
                fresh_only = true;
                let request = memo.expect("just looked").repeat(client);
                outgoing = Outgoing {
                    request,
                    upgrade,
                    ..outgoing
                };
            }
            Err(Failure::Unsent(_)) => {
                client.upstream.unanswered(endpoint);
                return Err(Fault::Broken);
            }
            Err(Failure::NoAnswer(fault)) => return Err(fault),
        }
    }
}

/// Makes the upstream's request out of the client's.
fn prepare(client: &Client, mut request: Request<Incoming>) -> Result<Outgoing, Fault> {
    if [Method::CONNECT, Method::TRACE].contains(request.method()) {
        return Err(Fault::Method);
    }
    // An HTTP/1.0 client cannot upgrade (RFC 9110, section 7.8).
    let modern = request.version() == Version::HTTP_11;
    let protocol = headers::upgrade(request.headers()).filter(|_| modern);
    let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, incoming) = request.into_parts();
    let host = to_origin_form(&mut head.uri)?;
    let hostless = host.is_none() && !head.headers.contains_key(HOST);
    if hostless && head.version == Version::HTTP_11 {
        return Err(Fault::Malformed("a Host field is missing\n"));
    }
    head.version = Version::HTTP_11;
    headers::for_upstream(&mut head.headers, &client.address, host, protocol)?;

    let interim = (client.upstream.relays_interim() && modern).then(|| client.peer.interim());
    if incoming.is_end_stream() {
        let mut request = Request::from_parts(head, RequestBody::default());
        if let Some(interim) = interim {
            listen_for_interim(&mut request, interim.clone(), None);
        }
        return Ok(Outgoing {
            request,
            progress: None,
            upgrade,
            hostless,
        });
    }
    if upgrade.is_some() {
        // Bytes behind the head could be the body's or the new protocol's: upstreams disagree.
        return Err(Fault::Malformed("an upgrade with a body\n"));
    }
    if incoming.size_hint().exact().is_none() {
        // Said outright, because hyper leaves it out for methods that rarely have a body.
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let (gate, key) = if headers::expects_continue(&head.headers) {
        let (gate, key) = Gate::closed();
        (Some(gate), Some(key))
    } else {
        (None, None)
    };
    let (body, progress) = RequestBody::streaming(incoming, gate);
    let mut request = Request::from_parts(head, body);
    match (interim, key) {
        (Some(interim), key) => listen_for_interim(&mut request, interim.clone(), key),
        (None, Some(key)) => hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                key.open();
            }
        }),
        (None, None) => {}
    }
    Ok(Outgoing {
        request,
        progress: Some(progress),
        upgrade,
        hostless,
    })
}

/// The most interim responses that are passed on for one request.
const MAX_INTERIM: usize = 10;

/// Passes on the interim responses to a request; a 100 opens the gate instead, and the client is asked
/// for its body in hyper's own words.
fn listen_for_interim(request: &mut Request<RequestBody>, client: Interim, key: Option<GateKey>) {
    let passed = AtomicUsize::new(0);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            key.iter().for_each(GateKey::open);
            return;
        }
        let mut headers = response.headers().clone();
        if headers::for_client(&mut headers, false).is_ok()
            && passed.fetch_add(1, Relaxed) < MAX_INTERIM
        {
            client.send(response.status(), &headers);
        }
    });
}

/// Cuts an absolute target down to its path. Its authority replaces `Host` (RFC 9112, section
/// 3.2.2), and is returned.
fn to_origin_form(uri: &mut Uri) -> Result<Option<HeaderValue>, Fault> {
    let Some(authority) = uri.authority() else {
        return Ok(None);
    };
    let malformed = Fault::Malformed("the request's target is malformed\n");
    if authority.as_str().contains('@') {
        return Err(malformed);
    }
    let host = HeaderValue::try_from(authority.as_str()).map_err(|_| malformed)?;
    let path = uri.path_and_query().cloned().ok_or(malformed)?;
    *uri = Uri::from(path);
    Ok(Some(host))
}

/// What is needed to send a request without a body a second time. Its fields are noted in a list
/// that the client's connection keeps: this happens to most requests, and being used to almost none.
struct Memo {
    method: Method,
    target: Uri,
}

impl Memo {
    #[inline]
    fn of(client: &Client, request: &Request<RequestBody>) -> Self {
        let mut fields = client.fields.borrow_mut();
        fields.clear();
        let own = request
            .headers()
            .iter()
            .filter(|(name, _)| !headers::is_introduction(name));
        fields.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        Self {
            method: request.method().clone(),
            target: request.uri().clone(),
        }
    }

    fn repeat(self, client: &Client) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::default());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.target;
        for (name, value) in client.fields.borrow_mut().drain(..) {
            request.headers_mut().append(name, value);
        }
        headers::introduce(request.headers_mut(), &client.address);
        request
    }
}

enum Failure {
    /// Nothing of it was sent: here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// It may have been sent.
    NoAnswer(Fault),
}

/// Sends a request over a link and waits for the head of its response.
async fn attempt(
    client: &Client,
    mut link: Box<Link>,
    was_reused: bool,
    request: Request<RequestBody>,
    progress: Option<&Progress>,
) -> Result<(Response<Incoming>, Box<Link>), Failure> {
    let (upstream, endpoint) = (&client.upstream, link.endpoint());
    let limit = upstream.timeouts().first_byte.as_nanos() as u64;
    let stall = upstream.worker().timeouts().stall.as_nanos() as u64;
    let mut deadline = upstream.worker().now().saturating_add(limit);
    let mut waits_for_client = false;
    let mut response = pin!(tokio::task::coop::unconstrained(link.send(request)));
    let mut link = Some(link);
    let answered = poll_fn(|cx| {
        let ended = link.as_mut().is_some_and(|link| link.poll(cx).is_ready());
        // Only polling the link makes an answer, so nobody needs to be woken for it.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut answer = response.as_mut().poll(&mut nobody);
        if answer.is_pending() && ended {
            // What it had not begun to send comes back when it is dropped.
            drop(link.take());
            answer = response.as_mut().poll(&mut nobody);
        }
        if let Poll::Ready(answer) = answer {
            return Poll::Ready(Ok(answer));
        }
        let now = upstream.worker().now();
        if let Some(progress) = progress {
            // Whoever is waited for has its time from the last piece on; the upstream for its answer
            // from the end of the request on.
            let starved = progress.starved.get() && !progress.finished.get();
            if progress.moved.take() || starved != waits_for_client {
                waits_for_client = starved;
                let limit = if starved { stall } else { limit };
                deadline = now.saturating_add(limit);
            }
        }
        client.alarm.borrow_mut().poll(cx, now, deadline).map(Err)
    })
    .await;
    match (answered, link) {
        (Ok(Ok(response)), Some(link)) => {
            upstream.answered(endpoint, response.status(), was_reused);
            Ok((response, link))
        }
        // The answer came whole, and the link is gone with it.
        (Ok(Ok(_)), None) => Err(Failure::NoAnswer(Fault::Broken)),
        (Ok(Err(error)), _) => Err(failure(client, endpoint, error, progress)),
        (Err(()), _) if waits_for_client => Err(Failure::NoAnswer(Fault::BodyTimeout)),
        (Err(()), _) => {
            upstream.unanswered(endpoint);
            Err(Failure::NoAnswer(Fault::FirstByteTimeout))
        }
    }
}

fn failure(
    client: &Client,
    endpoint: usize,
    mut error: TrySendError<Request<RequestBody>>,
    progress: Option<&Progress>,
) -> Failure {
    if let Some(request) = error.take_message() {
        return Failure::Unsent(Box::new(request));
    }
    if progress.is_some_and(|p| p.failed.get()) {
        return Failure::NoAnswer(Fault::BodyBrokeOff);
    }
    client.upstream.unanswered(endpoint);
    Failure::NoAnswer(Fault::Broken)
}

/// Makes the client's response out of the upstream's.
fn answer(
    client: &Rc<Client>,
    response: Response<Incoming>,
    mut link: Box<Link>,
    progress: Option<&Progress>,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<ProxyBody>, Fault> {
    let (mut head, incoming) = response.into_parts();
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let closes = headers::for_client(&mut head.headers, switched)?;
    let last = closes || head.version != Version::HTTP_11;
    head.version = Version::HTTP_11;
    let body = match (switched, upgrade) {
        (true, Some(upgrade)) => {
            let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
            // The head of a 101 is the last that HTTP has to say on a connection.
            if link.poll(&mut nobody).is_pending() {
                return Err(Fault::Broken);
            }
            tunnel::dig(client, upgrade, link);
            ProxyBody::Ready(None)
        }
        // Nobody asked for it.
        (true, None) => return Err(Fault::Broken),
        (false, _) if progress.is_some_and(|p| !p.finished.get()) => {
            ProxyBody::early(incoming, link, client)
        }
        (false, _) => {
            let body = ProxyBody::upstream(incoming, link, client, last);
            match absent_length(&head) {
                Some(length) => ProxyBody::Absent(length),
                None => body,
            }
        }
    };
    Ok(Response::from_parts(head, body))
}

/// How long the body would be that a 304 does not have, if it says so.
fn absent_length(head: &hyper::http::response::Parts) -> Option<u64> {
    if head.status != StatusCode::NOT_MODIFIED {
        return None;
    }
    let length = head.headers.get(CONTENT_LENGTH)?;
    length
        .to_str()
        .ok()?
        .parse()
        .ok()
        .filter(|length| *length > 0)
}
