//! A running cluster, seen from outside.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::program::{ORDERS, Orders};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain until {what}");
        // The one place that pauses between two looks; nothing depends on how long.
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// A master and its worker; dropping it ends both.
pub struct Running {
    master: Child,
    address: String,
    admin: String,
    log: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(orders: &Orders) -> Self {
        let orders = serde_json::to_string(orders).expect("text");
        let mut master = Command::new(std::env::current_exe().expect("this program"))
            .env(ORDERS, orders)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program");
        let log = Arc::<Mutex<String>>::default();
        let (kept, stderr) = (log.clone(), master.stderr.take().expect("piped"));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("plain").push_str(&format!("{line}\n"));
            }
        });
        let (tell, told) = mpsc::channel();
        let stdout = master.stdout.take().expect("piped");
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let told = told.recv_timeout(DEADLINE).unwrap_or_default();
        let Some((address, admin)) = told.trim().split_once(' ') else {
            let _ = master.kill();
            panic!("it did not start: {}", log.lock().expect("plain"));
        };
        Self {
            address: address.into(),
            admin: admin.into(),
            master,
            log,
        }
    }

    /// What its worker says to `path`.
    #[track_caller]
    pub fn ask(&self, path: &str) -> String {
        get(&self.address, path)
    }

    /// Its worker's name on the bus.
    pub fn id(&self) -> String {
        self.ask("/id")
    }

    /// Its master's name on the bus.
    pub fn master(&self) -> String {
        self.id().split(':').next().expect("an id").to_owned()
    }

    /// The lines that its worker has heard that have `part` in them.
    pub fn heard(&self, part: &str) -> Vec<String> {
        let all = self.ask("/heard");
        let lines = all.lines().filter(|line| line.contains(part));
        lines.map(str::to_owned).collect()
    }

    /// Its metric of this name and labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = get(&self.admin, "/metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(value) = line else {
            panic!("no {name} in {page}");
        };
        value.trim().parse().expect("a number")
    }

    /// Everything that the master's status says.
    pub fn status(&self) -> String {
        get(&self.admin, "/status")
    }

    /// The process id of its worker.
    pub fn pid_of_worker(&self) -> i32 {
        let report: serde_json::Value =
            serde_json::from_str(&get(&self.admin, "/workers")).expect("JSON");
        report["workers"][0]["pid"].as_i64().expect("a number") as i32
    }

    /// What it has written on standard error.
    pub fn said(&self) -> String {
        self.log.lock().expect("plain").clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.master.id() as i32), signal).expect("it runs");
    }

    /// Waits until its worker sees that of `other`.
    #[track_caller]
    pub fn sees(&self, other: &str) {
        until("they see each other", || {
            self.ask("/peers")
                .lines()
                .any(|peer| peer == other)
                .then_some(())
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.master.id() as i32);
        let _ = kill(pid, Signal::SIGCONT);
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.master.wait();
        if thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// The body of the answer to a request on a connection of its own.
#[track_caller]
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("nobody is refused");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("nobody is cut");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer:?}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    body.to_owned()
}
