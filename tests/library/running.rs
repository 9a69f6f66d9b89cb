//! A program under test, in a process of its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::sys::signal::Signal;

use crate::{
    harness::{self, DEADLINE, until},
    programs::{MODE, PROGRAM},
};

/// A running cluster; dropping it ends it.
pub struct Running {
    master: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// What master and workers have printed.
    printed: Arc<Mutex<Vec<String>>>,
}

/// This program, to be another.
pub fn command(program: &str, mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(PROGRAM, program).env(MODE, mode);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Running {
    #[track_caller]
    pub fn start(program: &str, mode: &str) -> Self {
        let mut master = command(program, mode).spawn().expect("this program");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(master.stdout.take().expect("piped"));
        let stderr = BufReader::new(master.stderr.take().expect("piped"));
        keep(stdout, printed.clone());
        keep(stderr, printed.clone());
        let mut running = Self {
            master,
            address: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            printed,
        };
        let ready = running.line("ready ");
        let mut words = ready.split(' ').skip(1);
        let mut next = || {
            words
                .next()
                .expect("two addresses")
                .parse()
                .expect("an address")
        };
        (running.address, running.admin) = (next(), next());
        running
    }

    /// Everything printed so far.
    pub fn printed(&self) -> Vec<String> {
        self.printed.lock().expect("no writer panics").clone()
    }

    /// Waits for a line that begins so.
    #[track_caller]
    pub fn line(&self, beginning: &str) -> String {
        until(
            &format!("'{beginning}' is printed; {:?}", self.printed()),
            || {
                self.printed()
                    .into_iter()
                    .find(|l| l.starts_with(beginning))
            },
        )
    }

    pub fn pid(&self) -> i32 {
        self.master.id() as i32
    }

    /// What the admin interface says of each worker.
    #[track_caller]
    pub fn workers(&self) -> Vec<serde_json::Value> {
        let answer = harness::get(self.admin, "/workers");
        let report: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        report["workers"].as_array().expect("a list").clone()
    }

    /// The sum of a metric's series.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = harness::get(self.admin, "/metrics").text();
        page.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            .sum()
    }

    /// Connections moved this way, of all workers.
    #[track_caller]
    pub fn moved(&self, direction: &str) -> f64 {
        let series = format!("direction=\"{direction}\"");
        let page = harness::get(self.admin, "/metrics").text();
        page.lines()
            .filter(|line| line.starts_with("pointsman_connections_moved_total{"))
            .filter(|line| line.contains(&series))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until no connection is counted as open, by any of those who count them.
    #[track_caller]
    pub fn nothing_is_open(&self) {
        until("nothing is open any more", || {
            let idle = self.metric("pointsman_connections_open") == 0.0
                && self
                    .workers()
                    .iter()
                    .all(|w| w["load"] == 0 && w["connections_open"] == 0);
            idle.then_some(())
        });
    }

    #[track_caller]
    pub fn connect(&self) -> Lines {
        Lines::connect(self.address)
    }

    /// A connection to the worker in this seat.
    #[track_caller]
    pub fn connect_to(&self, seat: u16) -> Lines {
        // Those who went elsewhere stay until then: the policy would send the next there, too.
        let mut elsewhere = Vec::new();
        until("the worker takes a connection", || {
            let mut conn = self.connect();
            if conn.ask("who").starts_with(&format!("{seat} ")) {
                return Some(conn);
            }
            elsewhere.push(conn);
            None
        })
    }

    pub fn terminate(&self) {
        harness::kill(self.pid(), Signal::SIGTERM);
    }

    /// Waits until the master has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("the master ends", || {
            self.master.try_wait().expect("our child")
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.master.try_wait().is_ok_and(|status| status.is_none()) {
            until("the master ends", || {
                self.terminate();
                self.master.try_wait().ok().flatten()
            });
        }
        if thread::panicking() {
            eprintln!("--- printed:\n{}\n---", self.printed().join("\n"));
        }
    }
}

/// Keeps what is printed, line by line.
fn keep(reader: impl BufRead + Send + 'static, printed: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            printed.lock().expect("no writer panics").push(line);
        }
    });
}

/// A client that speaks in lines.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("nobody is refused");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Self(BufReader::new(stream))
    }

    pub fn local_address(&self) -> SocketAddr {
        self.0.get_ref().local_addr().expect("connected")
    }

    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0
            .get_mut()
            .write_all(line.as_bytes())
            .expect("nobody is cut");
    }

    /// The next line; empty: the connection has ended, however.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("an answer in time: {error}"),
        }
    }

    /// The answer; `None`: the connection has ended.
    pub fn try_ask(&mut self, line: &str) -> Option<String> {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).ok()?;
        Some(self.hear())
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }
}
