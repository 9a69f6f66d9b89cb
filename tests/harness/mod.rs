//! What every integration test stands on: the real binary on free ports, real sockets, real
//! upstreams. Waiting is always for a condition, with a deadline.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod place;
pub mod upstream;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up. Generous: it is only ever waited for in full
/// when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain until {what}"
        );
        // The one place that pauses between two looks; nothing depends on how long.
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A running `pointsman serve`. Dropping it stops it and checks that it left nothing behind.
pub struct Pointsman {
    child: Child,
    /// Addresses that it listens on.
    pub listen: Vec<SocketAddr>,
    /// The admin interface.
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Pointsman {
    /// Starts `pointsman serve` on a free port of 127.0.0.1, with an admin interface on another, and
    /// `arguments`; returns once all workers are ready.
    #[track_caller]
    pub fn start(upstreams: &[&str], arguments: &[&str]) -> Self {
        Self::start_on(&["127.0.0.1:0"], upstreams, arguments)
    }

    /// The same, listening on `listen`.
    #[track_caller]
    pub fn start_on(listen: &[&str], upstreams: &[&str], arguments: &[&str]) -> Self {
        Self::start_with_admin("127.0.0.1:0", listen, upstreams, arguments)
    }

    /// The same, with the admin interface at `admin`.
    #[track_caller]
    pub fn start_with_admin(
        admin: &str,
        listen: &[&str],
        upstreams: &[&str],
        arguments: &[&str],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.arg("serve").args(["--admin", admin]);
        listen
            .iter()
            .for_each(|l| _ = command.args(["--listen", l]));
        upstreams
            .iter()
            .for_each(|u| _ = command.args(["--upstream", u]));
        command
            .args(arguments)
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        let mut child = command.spawn().expect("the binary under test");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, announced) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    if line.contains("listening on http://") {
                        let _ = found.send(line.clone());
                    }
                    let mut log = log.lock().expect("no writer panics");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let Ok(line) = announced.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            panic!(
                "it never became ready:\n{}",
                log.lock().expect("no writer panics")
            );
        };
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(['\u{20}', ','])
                .filter_map(|word| word.strip_prefix("http://"))
                .map(|word| word.parse().expect("an address"))
                .collect()
        };
        let (before, after) = line.split_once("admin").expect("an admin interface");
        let listen = addresses(
            before
                .split_once("upstream")
                .map_or(before, |(listen, _)| listen),
        );
        let admin = addresses(after)[0];
        Self {
            child,
            listen,
            admin,
            log,
        }
    }

    /// The address that clients use.
    pub fn address(&self) -> SocketAddr {
        self.listen[0]
    }

    /// The master's process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// A page of the admin interface.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Answer {
        get(self.admin, path)
    }

    /// `/workers`.
    #[track_caller]
    pub fn workers(&self) -> serde_json::Value {
        serde_json::from_slice(&self.admin("/workers").body).expect("JSON")
    }

    /// One number of each worker, from `/workers`.
    #[track_caller]
    pub fn each_worker(&self, field: &str) -> Vec<u64> {
        let report = self.workers();
        let workers = report["workers"].as_array().expect("a list");
        workers
            .iter()
            .map(|w| w[field].as_u64().unwrap_or(0))
            .collect()
    }

    /// Connections that each worker has taken so far, by whatever way; its present process only.
    #[track_caller]
    pub fn taken(&self) -> Vec<u64> {
        let report = self.workers();
        let workers = report["workers"].as_array().expect("a list");
        let number = |w: &serde_json::Value, field| w[field].as_u64().unwrap_or(0);
        workers
            .iter()
            .map(|w| number(w, "connections_handed_over") + number(w, "connections_self_accepted"))
            .collect()
    }

    /// The state of the worker in a seat.
    #[track_caller]
    pub fn state(&self, seat: usize) -> String {
        let report = self.workers();
        report["workers"][seat]["state"]
            .as_str()
            .unwrap_or("absent")
            .to_owned()
    }

    /// Process ids of the workers, by seat.
    #[track_caller]
    pub fn worker_pids(&self) -> Vec<i32> {
        self.each_worker("pid")
            .into_iter()
            .map(|pid| pid as i32)
            .collect()
    }

    /// `/metrics`, by name with labels as it stands there.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let page = String::from_utf8(self.admin("/metrics").body).expect("UTF-8");
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
            .collect()
    }

    /// The sum of a metric over those of its series whose labels contain all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.metrics()
            .iter()
            .filter(|(series, _)| {
                let bare = series.split('{').next().unwrap_or(series);
                bare == name && labels.iter().all(|label| series.contains(label))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(self.pid(), signal);
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("pointsman ends", || {
            self.child.try_wait().expect("our child")
        })
    }
}

impl Drop for Pointsman {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // Again and again: a test that failed may have left connections open.
            until("pointsman ends", || {
                self.signal(nix::sys::signal::Signal::SIGTERM);
                self.child.try_wait().ok().flatten()
            });
        }
        if thread::panicking() {
            eprintln!("--- pointsman's log:\n{}---", self.log());
        }
    }
}

/// Stops a process, and waits until it stands still.
#[track_caller]
pub fn stop(pid: i32) {
    kill(pid, nix::sys::signal::Signal::SIGSTOP);
    until("the process stands still", || {
        process(pid).filter(|(_, state)| *state == 'T').map(drop)
    });
}

/// Lets a stopped process go on.
#[track_caller]
pub fn resume(pid: i32) {
    kill(pid, nix::sys::signal::Signal::SIGCONT);
}

/// Sends a signal to a process.
#[track_caller]
pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    assert!(pid > 1, "there is no such worker now");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the process exists");
}

/// A demo upstream on a thread of this test.
pub struct Demo {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Demo {
    /// Starts one.
    pub fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let stopped = async { _ = stopped.await };
                pointsman::demo::serve(listener, name, stopped)
                    .await
                    .expect("a demo upstream");
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The URL for `--upstream`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An HTTP response as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, lower-cased, lines ended by `\r\n`, status line included.
    pub head: String,
    /// The body, de-chunked.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, if there is one.
    pub fn field(&self, name: &str) -> Option<&str> {
        let name = format!("{}:", name.to_lowercase());
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name.as_str()))
            .map(str::trim)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client's connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("a listening proxy")
    }

    /// Connects, or says why not.
    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Connects from one of the addresses of 127.0.0.0/8.
    #[track_caller]
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("a loopback address");
        socket.connect(&address.into()).expect("a listening proxy");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends `GET path` and reads the response.
    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))?;
        self.read_answer(false)
    }

    /// Reads the next response. `headless`: one without a body whatever its head says (HEAD).
    pub fn read_answer(&mut self, headless: bool) -> std::io::Result<Answer> {
        let head = self.read_head()?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(broken)?;
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if headless || matches!(status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| broken())?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                if size == 0 {
                    return Ok(answer);
                }
                answer.body.extend_from_slice(&chunk[..size]);
            }
        }
        match answer.field("content-length").and_then(|n| n.parse().ok()) {
            Some(length) => {
                answer.body = vec![0; length];
                self.stream.read_exact(&mut answer.body)?;
            }
            None => _ = self.stream.read_to_end(&mut answer.body)?,
        }
        Ok(answer)
    }

    /// Reads a response's head.
    pub fn read_head(&mut self) -> std::io::Result<String> {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                return Ok(head.to_lowercase());
            }
            head.push_str(&line);
        }
    }

    /// Reads exactly `n` bytes.
    pub fn read_exact(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).map(|()| bytes)
    }

    /// Reads until the other end closes.
    pub fn read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }
}

fn broken() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP response")
}

/// One request on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let mut client = Client::connect(address);
    client
        .send(format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
        ))
        .expect("an open connection");
    client.read_answer(false).expect("an answer")
}

/// Open descriptors of a process.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

impl Client {
    /// Everything up to the proxy's closing the connection, by a reset too. That it does is waited
    /// for.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = self.stream.buffer().to_vec();
        self.stream.consume(bytes.len());
        bytes.extend(upstream::rest_of(self.stream.get_ref()));
        bytes
    }
}

/// The flags that choose an arm.
pub fn flags_of(arm: pointsman::Arm) -> Vec<&'static str> {
    let mut flags = vec!["--mode", arm.mode().name()];
    if let Some(policy) = arm.policy() {
        flags.extend(["--policy", policy.name()]);
    }
    flags
}

/// What a program that ended by itself left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The binary under test with these arguments, and what it says in pipes.
pub fn spawn(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test")
}

/// Runs the binary with `arguments` until it ends by itself.
///
/// # Panics
/// It does not end: it was killed after [`DEADLINE`].
#[track_caller]
pub fn run_to_end(arguments: &[&str]) -> Finished {
    let child = spawn(arguments);
    let pid = child.id() as i32;
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        kill(pid, nix::sys::signal::Signal::SIGKILL);
        panic!("pointsman {arguments:?} runs, though it was to end by itself");
    };
    let output = output.expect("its output");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process as `/proc` shows it: its parent and its state (`Z` for a zombie). `None`: there is none.
pub fn process(pid: i32) -> Option<(i32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// Does the process run still? One that is dead and only waits to be reaped does not.
pub fn is_running(pid: i32) -> bool {
    process(pid).is_some_and(|(_, state)| !['Z', 'X'].contains(&state))
}

/// The children of a process, with their states.
pub fn children(parent: i32) -> Vec<(i32, char)> {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            process(pid)
                .filter(|(p, _)| *p == parent)
                .map(|(_, s)| (pid, s))
        })
        .collect()
}

/// An upstream that answers requests for `/held` when the gate is opened, and others at once.
pub struct Gate {
    address: SocketAddr,
    state: Arc<(Mutex<GateState>, std::sync::Condvar)>,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// What it answers to `/held`.
    pub const HELD: &'static str = "it was worth the wait\n";
    /// What it answers to everything else.
    pub const FREE: &'static str = "no need to wait\n";

    /// Starts one, closed.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state: Arc<(Mutex<GateState>, std::sync::Condvar)> = Arc::default();
        // Threads end with their connections, the accepting one with the test's process.
        thread::spawn({
            let state = state.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let state = state.clone();
                    thread::spawn(move || Self::serve(stream, &state));
                }
            }
        });
        Self { address, state }
    }

    fn serve(mut stream: TcpStream, (state, opened): &(Mutex<GateState>, std::sync::Condvar)) {
        let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
        while let Some(Ok(first)) = lines.next() {
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
            {}
            let mut body = Self::FREE;
            if first.starts_with("GET /held ") {
                body = Self::HELD;
                let mut state = state.lock().expect("nobody panics with it");
                state.waiting += 1;
                drop(
                    opened
                        .wait_while(state, |state| !state.open)
                        .expect("nobody panics with it"),
                );
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// The URL for `--upstream`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until `n` requests have come to the gate in all.
    #[track_caller]
    pub fn await_held(&self, n: usize) {
        until("requests wait at the gate", || {
            (self.state.0.lock().expect("nobody panics with it").waiting >= n).then_some(())
        });
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.state.0.lock().expect("nobody panics with it").open = true;
        self.state.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Random numbers that are the same in every run (the generator of Knuth's MMIX).
pub struct Lcg(pub u64);

impl Lcg {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// For [`until`]: has it come true?
pub fn is_true(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Flags for two workers of which none is taken for stuck while a test makes it stand still.
pub const PATIENT: [&str; 6] = [
    "--workers",
    "2",
    "--hang-after",
    "3000",
    "--hang-kill",
    "4000",
];

/// `n` clients that have connected and sent `request`.
#[track_caller]
pub fn knock(proxy: &Pointsman, n: usize, request: &str) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(proxy.address())).collect();
    for client in &mut clients {
        client.send(request).expect("an open connection");
    }
    clients
}

/// All of them get an answer.
#[track_caller]
pub fn all_are_answered(clients: &mut [Client], when: &str) {
    for (i, client) in clients.iter_mut().enumerate() {
        let answer = client
            .read_answer(false)
            .unwrap_or_else(|error| panic!("{when}: connection {i}: {error}"));
        assert_eq!(answer.status, 200, "{when}");
    }
}
