//! A worker whose loop is stuck in the application's own code: an endless loop, or a call that blocks.
//!
//! This program is all three: the test, the master that it starts, and that master's workers.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use pointsman::{Cluster, Mode};
use tower_service::Service;

/// Set for the master: the mode that it is to run in.
const MODE: &str = "STUCK_MODE";
/// How long anything may take before the test gives up.
const DEADLINE: Duration = Duration::from_secs(30);

/// Answers at once, except to `/spin?ADDRESS` and `/block?ADDRESS`, which keep the loop, in an endless loop
/// or a call that blocks, until the connection that they make to the address ends.
#[derive(Clone)]
struct App;

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        // The query is where whoever lets it go listens: what keeps the loop is that nobody does yet.
        if let Some(gate) = request.uri().query() {
            let mut gate = TcpStream::connect(gate).expect("the test listens");
            let spins = request.uri().path() == "/spin";
            gate.set_nonblocking(spins).expect("a socket");
            while matches!(gate.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
            {
                std::hint::spin_loop();
            }
        }
        std::future::ready(Ok(Response::new(Full::from("done"))))
    }
}

fn serve(mode: &str) -> pointsman::Result<()> {
    Cluster::new()
        .listen("127.0.0.1:0")
        .admin("127.0.0.1:0")
        .control(None)
        .workers(2)
        .mode(mode.parse().expect("a mode"))
        .on_ready(|ready| {
            let admin = ready.admin.expect("asked for");
            println!("{} {admin}", ready.listen[0]);
        })
        .serve(|_| async { App })
}

/// A running cluster; dropping it ends it.
struct Running {
    master: Child,
    address: String,
    admin: String,
}

impl Running {
    fn start(mode: Mode) -> Self {
        let mut master = Command::new(std::env::current_exe().expect("this program"))
            .env(MODE, mode.name())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program");
        let mut told = String::new();
        let stdout = master.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut told).expect("text");
        let (address, admin) = told.trim().split_once(' ').expect("two addresses");
        Self {
            master,
            address: address.into(),
            admin: admin.into(),
        }
    }

    /// State and process id of each worker.
    fn workers(&self) -> Vec<(String, i64)> {
        self.report(|w| {
            let state = w["state"].as_str().expect("text");
            (state.to_owned(), w["pid"].as_i64().expect("a number"))
        })
    }

    /// How often any worker was found stuck.
    fn hung(&self) -> u64 {
        let counts = self.report(|w| w["hung"].as_u64().expect("a number"));
        counts.into_iter().sum()
    }

    fn report<T>(&self, of: impl Fn(&serde_json::Value) -> T) -> Vec<T> {
        let answer = finish(begin(&self.admin, "/workers"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let report: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let workers = report["workers"].as_array().expect("a list");
        workers.iter().map(of).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.master.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

/// Sends a request on a connection of its own.
fn begin(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("nobody is refused");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("nobody is cut");
    stream
}

/// The answer.
fn finish(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    answer
}

fn a_stuck_worker_gets_nothing_and_returns(mode: Mode, how: &str) {
    let running = Running::start(mode);
    let before = running.workers();
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gate_address = gate.local_addr().expect("bound");
    let stuck = begin(&running.address, &format!("{how}?{gate_address}"));
    let (held, _) = gate.accept().expect("the worker is stuck now");
    let begun = Instant::now();
    // It is noticed as soon as others come. Some of them he may have taken in the first moment.
    let mut early = Vec::new();
    while running.hung() == 0 {
        early.push(begin(&running.address, "/"));
        assert!(begun.elapsed() < DEADLINE, "{mode}, {how}: not noticed");
    }
    // From then on nobody waits for him.
    let later: Vec<_> = (0..20).map(|_| begin(&running.address, "/")).collect();
    for other in later {
        finish(other);
    }
    // He is not cut off, nor replaced, and takes part again.
    assert_ne!(running.workers(), before, "{mode}, {how}: still stuck");
    drop(held);
    for waiting in early.into_iter().chain([stuck]) {
        finish(waiting);
    }
    while running.workers() != before {
        finish(begin(&running.address, "/"));
        assert!(begun.elapsed() < DEADLINE, "{mode}, {how}: {before:?}");
    }
    println!("{mode}, {how}: ok");
}

fn main() -> ExitCode {
    if pointsman::is_worker() {
        return serve("handoff").map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if let Ok(mode) = std::env::var(MODE) {
        return serve(&mode).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    for mode in Mode::ALL {
        for how in ["/spin", "/block"] {
            a_stuck_worker_gets_nothing_and_returns(mode, how);
        }
    }
    ExitCode::SUCCESS
}
