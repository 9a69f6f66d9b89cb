//! The asking end of the control socket.

use std::{
    env, fs,
    io::ErrorKind,
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE},
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    DecisionsReport, EXEC_LINE, Line, LiveReport, StatusReport, Verb, WorkersReport,
    path::{Place, Probe, check_length, places, probe},
};
use crate::{
    compare,
    error::{Error, Result},
    sys::{child::pidfd_open, readiness::watch},
};

/// How long a master may take for an answer that it has ready.
const READY_ANSWER: Duration = Duration::from_secs(10);

/// How long it may take to begin the answer to a verb.
const FIRST_LINE: Duration = Duration::from_secs(60);

/// How long a new binary may leave us without an answer.
const RENEWAL: Duration = Duration::from_secs(60);

/// Between two looks where nothing tells us when to look.
const PAUSE: Duration = Duration::from_millis(50);

/// Far more than any report.
const LARGEST_REPORT: usize = 16 << 20;

/// The variable that names the socket, where it is not said otherwise.
pub(crate) const VARIABLE: &str = "POINTSMAN_CONTROL";

/// The control socket of the one master that can be found.
///
/// # Errors
/// There is none (exit code 3), or there are several.
pub(crate) fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let mut places = places();
    // Where a service's socket is; its own environment says so, ours does not.
    let service = PathBuf::from("/run/pointsman");
    if places.iter().all(|place| place.directory != service) {
        places.push(Place::trusted(service));
    }
    find_in(&places)
}

fn find_in(places: &[Place]) -> Result<PathBuf> {
    let (mut live, mut denied) = (Vec::new(), Vec::new());
    for place in places.iter().filter(|place| place.is_safe()) {
        let Ok(entries) = fs::read_dir(&place.directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            if !socket || path.extension().is_none_or(|extension| extension != "sock") {
                continue;
            }
            match probe(&path) {
                Probe::Answers(_) => live.push(path),
                Probe::Denied => denied.push(path),
                _ => {}
            }
        }
    }
    let directories: Vec<_> = places.iter().map(|place| place.directory.clone()).collect();
    let list = |paths: &[PathBuf]| {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(", ")
    };
    live.sort();
    match (live.as_slice(), denied.as_slice()) {
        ([_], _) => Ok(live.remove(0)),
        ([], []) => Err(Error::absent(format!(
            "no running master found in {}; if its control socket is elsewhere, say --control PATH",
            list(&directories)
        ))),
        ([], denied) => Err(Error::failed(format!(
            "no master of yours is running, and not allowed to use {}: ask as its owner or as root",
            list(denied)
        ))),
        (several, _) => Err(Error::usage(format!(
            "several masters are running: {}; choose one with --control PATH",
            list(several)
        ))),
    }
}

/// What the master at `path` says about itself.
///
/// # Errors
/// Nobody is there, or does not answer, or may not be asked.
pub(crate) async fn status(path: &Path) -> Result<StatusReport> {
    report(path, "/status").await
}

/// What the master at `path` says about its workers.
///
/// # Errors
/// As [`status`].
pub(crate) async fn workers(path: &Path) -> Result<WorkersReport> {
    report(path, "/workers").await
}

/// What the master at `path` has counted.
///
/// # Errors
/// As [`status`].
pub(crate) async fn live(path: &Path) -> Result<LiveReport> {
    report(path, "/live").await
}

/// The last decisions of the master at `path`, `last` at the most.
///
/// # Errors
/// As [`status`].
pub(crate) async fn decisions(path: &Path, last: usize) -> Result<DecisionsReport> {
    report(path, &format!("/decisions?last={last}")).await
}

/// The comparison of the master at `path` that goes on, or its last one.
///
/// # Errors
/// As [`status`]; or nothing has been compared yet.
pub(crate) async fn comparison(path: &Path) -> Result<compare::Report> {
    report(path, "/comparison").await
}

/// Tells the master at `path` to do `verb`, shows every line of its answer to `on_line`, and returns
/// what was done, in its words, once that is done: after `stop` the process is gone, after `upgrade` the
/// new binary has finished what comes with it.
///
/// # Errors
/// Nobody is there, or may not be asked; it could not be done; or the master went away over it.
pub(crate) async fn ask(
    path: &Path,
    verb: &Verb,
    mut on_line: impl FnMut(&Line),
) -> Result<String> {
    let before = match verb {
        Verb::Upgrade { .. } => Some(status(path).await?),
        _ => None,
    };
    let (master, asked) = send_verb(path, verb, "").await?;
    let (mut heard, mut becoming) = (false, false);
    let ended = match asked {
        Some(response) => {
            read_lines(path, response, |line| {
                heard = true;
                becoming = matches!(line, Line::Progress { text } if text == EXEC_LINE);
                on_line(line);
            })
            .await?
        }
        None => None,
    };
    match (ended, verb, before) {
        (Some(text), Verb::Stop, _) => master.until_gone(path).await.map(|()| text),
        (Some(text), ..) => Ok(text),
        (None, Verb::Stop, _) if heard => {
            master.until_gone(path).await?;
            Ok("stopped".into())
        }
        (None, _, Some(before)) if becoming => {
            let gone = || {
                Error::failed(format!(
                    "the master ended while it became the new binary; its log says why ({})",
                    path.display()
                ))
            };
            tokio::select! {
                done = renewed(path, &before, on_line) => done,
                () = master.process_ended() => Err(gone()),
            }
        }
        (None, ..) => Err(Error::failed(format!(
            "the master went away before it said how '{}' ended; its log says why ({})",
            verb.name(),
            path.display()
        ))),
    }
}

/// Tells the master at `path` to do `verb` and does not wait for it.
///
/// # Errors
/// Nobody is there, or may not be asked.
pub(crate) async fn begin(path: &Path, verb: &Verb) -> Result<String> {
    let (_, asked) = send_verb(path, verb, "?wait=no").await?;
    let ended = match asked {
        Some(response) => read_lines(path, response, |_| ()).await?,
        None => None,
    };
    ended.ok_or_else(|| lost(path))
}

/// Follows an upgrade from the moment at which the old binary has hung up.
async fn renewed(
    path: &Path,
    before: &StatusReport,
    mut on_line: impl FnMut(&Line),
) -> Result<String> {
    let mut answered = Instant::now();
    let mut told = None;
    loop {
        match status(path).await {
            Ok(now) if now.upgrades > before.upgrades => {
                answered = Instant::now();
                let Some(operation) = now.operation else {
                    if let Some(why) = now.last_failure {
                        return Err(Error::failed(format!(
                            "upgraded from {} to {}, but: {why}",
                            before.version, now.version
                        )));
                    }
                    let text = format!(
                        "upgraded from {} to {}, {} of {} workers ready",
                        before.version, now.version, now.workers_ready, now.workers
                    );
                    on_line(&Line::Done { text: text.clone() });
                    return Ok(text);
                };
                if told.as_ref() != Some(&operation) {
                    let text = operation.clone();
                    on_line(&Line::Progress { text });
                    told = Some(operation);
                }
            }
            // The new one could not take over, and the old one is back.
            Ok(StatusReport {
                operation: None,
                last_failure: Some(why),
                ..
            }) if answered.elapsed() > PAUSE => return Err(Error::failed(why)),
            // The old one that has not gone yet, or nobody for the moment.
            Ok(_) => {}
            Err(error) if answered.elapsed() > RENEWAL => return Err(error),
            Err(_) => {}
        }
        if answered.elapsed() > RENEWAL {
            return Err(Error::failed(format!(
                "no new binary answers at {} after {} s; its log says why",
                path.display(),
                RENEWAL.as_secs()
            )));
        }
        sleep(PAUSE).await;
    }
}

/// The process at the other end.
struct Master {
    /// Readable once it has ended; `None` if it cannot be seen from here (it is in a container, say)
    /// or is this very process.
    process: Option<AsyncFd<OwnedFd>>,
}

impl Master {
    fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let process = pid
            .filter(|pid| *pid > 0 && *pid as u32 != std::process::id())
            .and_then(|pid| pidfd_open(pid).ok())
            .and_then(|pidfd| watch(pidfd, Interest::READABLE).ok());
        Self { process }
    }

    /// Waits until it has ended; for ever if it cannot be seen.
    async fn process_ended(&self) {
        match &self.process {
            Some(process) => _ = process.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until it has ended, or at least nobody answers any more.
    async fn until_gone(&self, path: &Path) -> Result<()> {
        if self.process.is_some() {
            self.process_ended().await;
            return Ok(());
        }
        loop {
            match probe(path) {
                Probe::Answers(_) => sleep(PAUSE).await,
                Probe::Unknown(error) => return Err(unreachable(path, error)),
                Probe::Dead | Probe::Nothing | Probe::Denied => return Ok(()),
            }
        }
    }
}

/// Sends a request and returns the response; `None` if the connection broke before its head had come.
async fn request(
    path: &Path,
    method: Method,
    target: &str,
    body: Vec<u8>,
) -> Result<(Master, Option<Response<Incoming>>)> {
    let stream = connect(path).await?;
    let master = Master::of(&stream);
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
        return Ok((master, None));
    };
    // It ends with the response, whose reader is told if it breaks.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "pointsman")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("its parts are constants");
    Ok((master, sender.send_request(request).await.ok()))
}

/// Asks the master at `path` to go on with `protocol` instead of HTTP, and returns the connection.
///
/// # Errors
/// Nobody is there, or does not answer, or may not be asked, or will not.
pub(super) async fn upgraded(
    path: &Path,
    target: &str,
    protocol: &'static str,
) -> Result<TokioIo<Upgraded>> {
    let exchange = async {
        let stream = connect(path).await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| lost(path))?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .uri(target)
            .header(HOST, "pointsman")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, protocol)
            .body(Full::new(Bytes::new()))
            .expect("its parts are constants");
        let response = sender.send_request(request).await;
        let response = response.map_err(|_| lost(path))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = upgrade::on(response).await.map_err(|_| lost(path))?;
            return Ok(TokioIo::new(upgraded));
        }
        Err(refusal(path, response).await)
    };
    match timeout(READY_ANSWER, exchange).await {
        Ok(result) => result,
        Err(_) => Err(silent(&path.display())),
    }
}

/// Why a master will not, in its own words.
async fn refusal(path: &Path, response: Response<Incoming>) -> Error {
    let body = Limited::new(response.into_body(), LARGEST_REPORT).collect();
    let Ok(body) = body.await else {
        return lost(path);
    };
    match serde_json::from_slice(&body.to_bytes()) {
        Ok(Line::Failed { error, .. }) => Error::failed(error),
        _ => foreign(path),
    }
}

async fn connect(path: &Path) -> Result<UnixStream> {
    check_length(path)?;
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            // Its queue is full.
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < READY_ANSWER =>
            {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(unreachable(path, error)),
        }
    }
}

fn unreachable(path: &Path, error: std::io::Error) -> Error {
    // Connecting to a file of another kind is refused as well.
    if fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Error::usage(format!(
            "{} is no socket, so no master is there: --control takes the path of a control socket",
            path.display()
        ));
    }
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => Error::absent(format!(
            "no control socket at {path}: is the master running? (--control PATH says where else it is)"
        )),
        ErrorKind::ConnectionRefused => Error::absent(format!(
            "no master answers at {path}: it has ended and left its socket behind"
        )),
        ErrorKind::PermissionDenied => Error::failed(format!(
            "not allowed to use {path}: ask as its owner or as root"
        )),
        ErrorKind::WouldBlock => silent(&path),
        _ => Error::runtime(format!("cannot connect to {path}"), error),
    }
}

fn silent(path: &dyn std::fmt::Display) -> Error {
    Error::failed(format!(
        "the master at {path} does not answer: it is stopped, or has too much to do"
    ))
}

pub(super) fn lost(path: &Path) -> Error {
    Error::failed(format!(
        "the master at {} went away before it had answered; its log says why",
        path.display()
    ))
}

pub(super) fn foreign(path: &Path) -> Error {
    Error::failed(format!(
        "what answers at {} is no master of this kind, or of another version",
        path.display()
    ))
}

async fn report<T: DeserializeOwned>(path: &Path, target: &str) -> Result<T> {
    let exchange = async {
        let (_, response) = request(path, Method::GET, target, Vec::new()).await?;
        let response = response.ok_or_else(|| lost(path))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_REPORT).collect();
        let body = body.await.map_err(|_| lost(path))?.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|_| foreign(path));
        }
        match serde_json::from_slice(&body) {
            Ok(Line::Failed { error, .. }) => Err(Error::failed(error)),
            _ => Err(foreign(path)),
        }
    };
    match timeout(READY_ANSWER, exchange).await {
        Ok(result) => result,
        Err(_) => Err(silent(&path.display())),
    }
}

async fn send_verb(
    path: &Path,
    verb: &Verb,
    query: &str,
) -> Result<(Master, Option<Response<Incoming>>)> {
    let body = serde_json::to_vec(verb)
        .map_err(|error| Error::usage(format!("cannot ask for {}: {error}", verb.name())))?;
    let target = format!("/{}{query}", verb.name());
    match timeout(FIRST_LINE, request(path, Method::POST, &target, body)).await {
        Ok(result) => result,
        Err(_) => Err(silent(&path.display())),
    }
}

/// Reads an answer to its end and shows every line. Returns the last one's text; `None` if the
/// connection ended before that.
async fn read_lines(
    path: &Path,
    response: Response<Incoming>,
    mut on_line: impl FnMut(&Line),
) -> Result<Option<String>> {
    let mut body = pin!(response.into_body());
    let mut buffer = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else {
            continue;
        };
        buffer.extend_from_slice(data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Line = serde_json::from_slice(&buffer[..end]).map_err(|_| foreign(path))?;
            buffer.drain(..=end);
            on_line(&line);
            match line {
                Line::Progress { .. } => {}
                Line::Done { text } => return Ok(Some(text)),
                Line::Failed { error, .. } => return Err(Error::failed(error)),
            }
        }
        if buffer.len() > LARGEST_REPORT {
            return Err(foreign(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{super::path::tests::Scratch, *};
    use crate::control::path::Bound;

    #[test]
    fn the_one_live_socket_is_found_and_others_are_told() {
        let scratch = Scratch::new("find");
        let directories = ["", "none"].map(|name| Place::trusted(scratch.file(name)));
        let error = find_in(&directories).expect_err("nobody");
        assert!(error.exit_code() == 3, "{error}");
        assert!(error.to_string().contains("--control"), "{error}");

        let live = Bound::bind(&scratch.file("1.sock")).expect("free");
        drop(std::os::unix::net::UnixListener::bind(scratch.file("2.sock")).expect("free"));
        fs::write(scratch.file("3.sock"), "").expect("written");
        assert_eq!(find_in(&directories).expect("one"), live.path());

        let _other = Bound::bind(&scratch.file("4.sock")).expect("free");
        let error = find_in(&directories).expect_err("two");
        assert!(error.is_usage(), "{error}");
        assert!(
            error.to_string().contains("1.sock") && error.to_string().contains("4.sock"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn whoever_is_not_there_is_told_apart() {
        let scratch = Scratch::new("absent");
        let path = scratch.file("s");
        let error = status(&path).await.expect_err("nothing there");
        assert!(
            error.exit_code() == 3 && error.to_string().contains("running?"),
            "{error}"
        );
        fs::write(&path, "").expect("written");
        let error = status(&path).await.expect_err("no socket");
        assert!(
            error.is_usage() && error.to_string().contains("no socket"),
            "{error}"
        );
        fs::remove_file(&path).expect("there");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("free"));
        let error = ask(&path, &Verb::Pause, |_| ()).await.expect_err("dead");
        assert!(
            error.exit_code() == 3 && error.to_string().contains("ended"),
            "{error}"
        );
    }
}
