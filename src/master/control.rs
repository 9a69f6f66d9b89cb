//! The master's end of the control socket: who may ask, what, and how the answer travels. Nothing is
//! done here; every verb goes to the supervisor, and its lines come back.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::{JoinHandle, spawn_local},
    time::timeout,
};

use super::{
    guests::{Farewell, Guests, Refused},
    places::attend_each,
};
use crate::{
    compare,
    control::{
        Asked, DecisionsReport, EXEC_LINE, Line, LiveReport, StatusReport, Verb, WorkersReport,
        bus::{self, Event},
    },
    dispatch::decision::KEPT,
};

/// Connections answered at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 32;

/// The largest body of a request: far more than any verb has.
const MAX_BODY: usize = 64 * 1024;

/// How long a client may take to send a request's head, and then its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the answers come from that need no supervisor.
pub(super) trait Reports {
    /// `GET /status`.
    fn status(&self) -> StatusReport;
    /// `GET /workers`.
    fn workers(&self) -> WorkersReport;
    /// `GET /live`.
    fn live(&self) -> LiveReport;
    /// `GET /comparison`: the one that goes on, or the last one.
    fn comparison(&self) -> Option<compare::Report>;
}

/// `GET /decisions`: asks the dispatcher for its last decisions, that many at the most. `None`: it has
/// ended.
pub(super) type Explain =
    Box<dyn Fn(usize) -> Pin<Box<dyn Future<Output = Option<DecisionsReport>>>>>;

/// There is no `/comparison` yet.
pub(super) const NOT_COMPARED: &str =
    "nothing has been compared yet: 'pointsman ctl compare' does it";

/// What every connection is served with.
struct Desk {
    reports: Rc<dyn Reports>,
    explain: Explain,
    ask: mpsc::UnboundedSender<Asked>,
    guests: Guests,
    /// The user as whom the master runs.
    own_uid: u32,
}

/// A control socket that is being answered.
pub(super) struct Server {
    accepting: JoinHandle<()>,
    places: Arc<Semaphore>,
    guests: Guests,
}

impl Server {
    /// Takes no more connections, sends the guests away, and waits until the answers under way have been
    /// written, but no longer than `limit`: to be called before the process ends or becomes another, or the last
    /// line of an answer would be lost. Answers are under way until the supervisor has sent their last
    /// line or dropped their sender.
    pub(super) async fn finish(self, limit: Duration) {
        self.accepting.abort();
        self.guests.dismiss(Farewell::End);
        let all = async {
            let _ = self.places.acquire_many(MAX_CONNECTIONS as u32).await;
            self.guests.gone().await;
        };
        let _ = timeout(limit, all).await;
    }
}

/// Answers on `listener`, in tasks of this thread, from `reports`, by `explain` and by what the receiver of
/// `ask` says. Who wants to be on the bus is one of `guests`.
pub(super) fn serve(
    listener: UnixListener,
    reports: Rc<dyn Reports>,
    explain: Explain,
    ask: mpsc::UnboundedSender<Asked>,
    guests: Guests,
) -> Server {
    let desk = Rc::new(Desk {
        reports,
        explain,
        ask,
        guests: guests.clone(),
        own_uid: nix::unistd::geteuid().as_raw(),
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = spawn_local(attend_each(
        places.clone(),
        async move || listener.accept().await.map(|(stream, _)| stream),
        move |stream| {
            let desk = desk.clone();
            async move { desk.attend(stream).await }
        },
    ));
    Server {
        accepting,
        places,
        guests,
    }
}

/// May a process of `uid` tell a master of `own` what to do? The socket's mode says so already; this
/// holds even where somebody has opened that up.
fn is_allowed(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

impl Desk {
    /// Answers one connection's one request.
    async fn attend(&self, stream: UnixStream) {
        let peer = stream.peer_cred();
        let by = match &peer {
            Ok(peer) => match peer.pid().filter(|pid| *pid > 0) {
                Some(pid) => format!("uid {}, process {pid}", peer.uid()),
                None => format!("uid {}", peer.uid()),
            },
            Err(_) => "somebody unknown".into(),
        };
        let pid = peer.as_ref().ok().and_then(|peer| peer.pid()).unwrap_or(0);
        let allowed = peer.is_ok_and(|peer| is_allowed(peer.uid(), self.own_uid));
        let service = service_fn(|request| {
            let by = by.clone();
            async move {
                let answer = if allowed {
                    self.answer(request, by, pid).await
                } else {
                    let error =
                        format!("{by} may not command this master: only its own user and root may");
                    failed(StatusCode::FORBIDDEN, error)
                };
                Ok::<_, Infallible>(answer)
            }
        });
        // An error is the client's: it has gone, or does not speak HTTP. One request for each
        // connection, so that a connection that is open is an answer under way.
        let _ = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    async fn answer(&self, request: Request<Incoming>, by: String, pid: i32) -> Answer {
        let path = request.uri().path().to_owned();
        let name = path.strip_prefix('/').unwrap_or_default();
        match (name, request.method()) {
            ("status", &Method::GET) => report(&self.reports.status()),
            ("workers", &Method::GET) => report(&self.reports.workers()),
            ("live", &Method::GET) => report(&self.reports.live()),
            ("comparison", &Method::GET) => match self.reports.comparison() {
                Some(comparison) => report(&comparison),
                None => failed(StatusCode::NOT_FOUND, NOT_COMPARED),
            },
            ("decisions", &Method::GET) => self.decisions(request.uri().query()).await,
            ("bus", _) => match self.guests.receive(request, pid) {
                Ok(response) => response.map(|()| Either::Left(Full::default())),
                Err((status, error)) => failed(status, error),
            },
            (bus, method) if bus.starts_with("bus/") => {
                let op = &bus["bus/".len()..];
                // Whoever only wants to know something may say so.
                if !(method == Method::POST || (op == "peers" && method == Method::GET)) {
                    return wrong_method("POST");
                }
                match self.errand(op, request, pid).await {
                    Ok((status, event)) => whole(status, LINES, bus::line(&event)),
                    Err((status, error)) => failed(status, error),
                }
            }
            ("status" | "live" | "comparison" | "decisions", _) => wrong_method("GET"),
            (name, &Method::POST) if VERBS.contains(&name) => self.tell(name, request, by).await,
            ("workers", _) => wrong_method("GET, POST"),
            (name, _) if VERBS.contains(&name) => wrong_method("POST"),
            _ => failed(
                StatusCode::NOT_FOUND,
                format!(
                    "there is no {path} here; GET status, workers, live, comparison, decisions or bus, or POST bus/publish, {}",
                    VERBS.join(", ")
                ),
            ),
        }
    }

    /// Runs an errand on the bus.
    async fn errand(
        &self,
        op: &str,
        request: Request<Incoming>,
        pid: i32,
    ) -> Result<(StatusCode, Event), Refused> {
        let body = read(request.into_body(), bus::MAX_LINE).await?;
        self.guests.errand(op, &body, pid).await
    }

    /// Tells the last decisions, as many as the query says.
    async fn decisions(&self, query: Option<&str>) -> Answer {
        let last = match query {
            None => Some(KEPT),
            Some(query) => query.strip_prefix("last=").and_then(|n| n.parse().ok()),
        };
        let Some(last) = last else {
            let error = format!("decisions: ?last=N takes a number, 1 to {KEPT}");
            return failed(StatusCode::BAD_REQUEST, error);
        };
        match (self.explain)(last).await {
            Some(decisions) => report(&decisions),
            None => {
                let error = "the master is about to end, or to become another binary: ask again";
                failed(StatusCode::SERVICE_UNAVAILABLE, error)
            }
        }
    }

    /// Puts a verb to the supervisor. The first line of its answer makes the status code.
    async fn tell(&self, name: &str, request: Request<Incoming>, by: String) -> Answer {
        let waits = match request.uri().query() {
            None | Some("wait=yes") => true,
            Some("wait=no") => false,
            Some(query) => {
                let error = format!("'?{query}' means nothing here; ?wait=no does");
                return failed(StatusCode::BAD_REQUEST, error);
            }
        };
        let body = match read(request.into_body(), MAX_BODY).await {
            Ok(body) => body,
            Err((status, error)) => return failed(status, error),
        };
        let mut verb = match understand(name, &body) {
            Ok(verb) => verb,
            Err(error) => return failed(StatusCode::BAD_REQUEST, error),
        };
        if let (Verb::Compare(plan), false) = (&mut verb, waits) {
            // It would end when whoever asked has gone.
            plan.unattended = true;
        }
        let (answer, lines) = mpsc::unbounded_channel();
        let asked = Asked {
            verb,
            by,
            answer: Some(answer),
        };
        if self.ask.send(asked).is_err() {
            let error = "the master is about to end and takes no commands any more";
            return failed(StatusCode::SERVICE_UNAVAILABLE, error);
        }
        if !waits {
            let text = "begun".into();
            return whole(StatusCode::ACCEPTED, LINES, line(&Line::Done { text }));
        }
        let mut lines = Lines::new(lines);
        let status = match lines.first().await {
            Some(Line::Failed { busy: true, .. }) => StatusCode::CONFLICT,
            Some(Line::Failed { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        };
        respond(status, LINES, Either::Right(lines))
    }
}

/// The paths of all verbs.
const VERBS: [&str; 11] = [
    "mode",
    "workers",
    "drain",
    "restart",
    "reload",
    "upgrade",
    "pause",
    "resume",
    "compare",
    "compare-stop",
    "stop",
];

/// A request's body, as long as it is a sensible one, of `most` bytes.
async fn read(body: Incoming, most: usize) -> Result<Bytes, (StatusCode, String)> {
    let too_large = || {
        let error = format!("the body has more than {most} bytes");
        (StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match timeout(PATIENCE, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body broke off".into())),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time".into(),
        )),
    }
}

/// The verb of this name with the fields in `body`, none of them unknown.
fn understand(name: &str, body: &[u8]) -> Result<Verb, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let mut fields = if body.iter().all(u8::is_ascii_whitespace) {
        serde_json::Map::new()
    } else {
        serde_json::from_slice(body).map_err(|error| wrong(&error))?
    };
    let named = fields.insert("verb".into(), name.into());
    if named.is_some_and(|named| named != name) {
        return Err(wrong(&"the body names another verb than the path"));
    }
    // Where a verb has no fields, serde ignores those that are there.
    let unknown = fields.keys().find(|key| *key != "verb").cloned();
    let verb: Verb = serde_json::from_value(fields.into()).map_err(|error| wrong(&error))?;
    match (&verb, unknown) {
        (
            Verb::Mode { .. }
            | Verb::Workers { .. }
            | Verb::Drain { .. }
            | Verb::Upgrade { .. }
            | Verb::Compare(_),
            _,
        )
        | (_, None) => Ok(verb),
        (_, Some(field)) => Err(wrong(&format_args!(
            "unknown field `{field}`, it takes none"
        ))),
    }
}

type Answer = Response<Either<Full<Bytes>, Lines>>;

const LINES: &str = "application/x-ndjson";

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Either<Full<Bytes>, Lines>,
) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    respond(status, content_type, Either::Left(Full::new(body)))
}

fn failed(status: StatusCode, error: impl Into<String>) -> Answer {
    let error = error.into();
    let busy = false;
    whole(status, LINES, line(&Line::Failed { error, busy }))
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut response = failed(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("not with this method; {allowed} will do"),
    );
    let value = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, value);
    response
}

fn report(report: &impl Serialize) -> Answer {
    match serde_json::to_vec(report) {
        Ok(mut json) => {
            json.push(b'\n');
            whole(StatusCode::OK, "application/json", json.into())
        }
        // A path that is no Unicode, for one.
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn line(line: &Line) -> Bytes {
    let mut json = serde_json::to_vec(line).expect("text and truth values only");
    json.push(b'\n');
    json.into()
}

/// The supervisor's answer on its way: each line is a chunk of its own, written as it comes.
struct Lines {
    /// One taken out to be looked at.
    ahead: Option<Line>,
    rest: mpsc::UnboundedReceiver<Line>,
    state: Telling,
}

/// How far an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// More is to come.
    On,
    /// The master becomes another binary: that nothing more comes is no fault.
    Becoming,
    /// Its last line has gone.
    Over,
}

impl Lines {
    fn new(rest: mpsc::UnboundedReceiver<Line>) -> Self {
        Self {
            ahead: None,
            rest,
            state: Telling::On,
        }
    }

    /// Waits for the first line and looks at it.
    async fn first(&mut self) -> Option<&Line> {
        let line = std::future::poll_fn(|cx| self.poll_line(cx)).await?;
        Some(self.ahead.insert(line))
    }

    /// The next line. An answer always has a last one, even if the supervisor forgot about it.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Line>> {
        if let Some(line) = self.ahead.take() {
            return Poll::Ready(Some(line));
        }
        if self.state == Telling::Over {
            return Poll::Ready(None);
        }
        let line = match ready!(self.rest.poll_recv(cx)) {
            Some(line) => line,
            None if self.state == Telling::Becoming => {
                self.state = Telling::Over;
                return Poll::Ready(None);
            }
            None => Line::Failed {
                error: "the master has given this up without saying why; its log may".into(),
                busy: false,
            },
        };
        self.state = match &line {
            Line::Progress { text } if text == EXEC_LINE => Telling::Becoming,
            Line::Progress { .. } => Telling::On,
            Line::Done { .. } | Line::Failed { .. } => Telling::Over,
        };
        Poll::Ready(Some(line))
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = ready!(self.get_mut().poll_line(cx));
        Poll::Ready(next.map(|next| Ok(Frame::data(line(&next)))))
    }
}

#[cfg(test)]
mod tests;
