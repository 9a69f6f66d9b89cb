//! The test's side of a cluster that does what it is told, see [`program`](super::program).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use nix::sys::signal::Signal::SIGTERM;
use serde_json::{Value, json};

use super::program::{DESK, SHAPE};
use crate::harness::{DEADLINE, get, kill, until};

/// A cluster under test; dropping it ends it.
pub struct Cluster {
    master: Option<Child>,
    desk: Arc<Desk>,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// Who has come to the test's desk.
#[derive(Default)]
struct Desk {
    workers: Mutex<Vec<Worker>>,
    master: Mutex<Option<Value>>,
    /// Is the master's connection open?
    has_master: AtomicBool,
    changed: Condvar,
}

/// A worker that does what it is told. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    /// Its seat.
    pub seat: u64,
    /// Counts births in the seat.
    pub generation: u64,
    /// Its process.
    pub pid: i32,
    /// Its name on the bus.
    pub id: String,
    /// What else it has said of itself.
    pub hello: Value,
    shared: Arc<Said>,
}

/// What a worker has said, and the way to tell it something.
struct Said {
    state: Mutex<Heard>,
    changed: Condvar,
    line: Mutex<TcpStream>,
}

#[derive(Default)]
struct Heard {
    commands: u64,
    answers: BTreeMap<u64, Value>,
    /// Messages and presence events, as they came.
    events: Vec<Value>,
    is_over: bool,
}

impl Cluster {
    /// Starts one with this many workers; returns once they are ready.
    #[track_caller]
    pub fn start(workers: u16) -> Self {
        Self::shaped(&format!("workers={workers}"))
    }

    /// Starts one of this shape.
    #[track_caller]
    pub fn shaped(shape: &str) -> Self {
        Self::with(shape, |_| {})
    }

    /// The same, with something more done to the command.
    #[track_caller]
    pub fn with(shape: &str, more: impl FnOnce(&mut Command)) -> Self {
        let mut cluster = Self::desk();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .env(DESK, cluster.address.to_string())
            .env(SHAPE, shape)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        more(&mut command);
        // A test that is killed leaves nothing behind.
        pointsman::sys::tie::to_us(&mut command);
        let mut master = command.spawn().expect("this program");
        let stderr = BufReader::new(master.stderr.take().expect("piped"));
        let log = cluster.log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = log.lock().expect("no writer panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        cluster.master = Some(master);
        cluster.ready();
        cluster
    }

    /// A desk for a cluster that somebody else starts: a [branch](pointsman::bus::Bus::branch).
    pub fn desk() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let desk = Arc::new(Desk::default());
        let attending = desk.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let desk = attending.clone();
                thread::spawn(move || attend(&desk, stream));
            }
        });
        Self {
            master: None,
            desk,
            address,
            log: Arc::default(),
        }
    }

    /// The address of the desk.
    pub fn desk_address(&self) -> String {
        self.address.to_string()
    }

    /// What the master has said once all workers were ready.
    #[track_caller]
    pub fn ready(&self) -> Value {
        until("the cluster is ready", || {
            self.desk.master.lock().expect("no panic").clone()
        })
    }

    /// The master's process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.ready()["master"].as_i64().expect("a number") as i32
    }

    /// Where connections are accepted.
    #[track_caller]
    pub fn listen(&self) -> SocketAddr {
        address(&self.ready()["listen"])
    }

    /// A page of the admin interface.
    #[track_caller]
    pub fn admin(&self, path: &str) -> String {
        get(address(&self.ready()["admin"]), path).text()
    }

    /// A page of the admin interface, read.
    #[track_caller]
    pub fn report(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin(path)).expect("JSON")
    }

    /// A metric by its name and labels as they stand on the page, `pointsman_bus_processes` say.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.admin("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
        value.trim().parse().expect("a number")
    }

    /// What the master and its workers have said on standard error.
    pub fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// The newest worker in a seat that is there.
    #[track_caller]
    pub fn worker(&self, seat: u64) -> Worker {
        self.worker_of(seat, 1)
    }

    /// The newest worker in a seat, of this generation or a later one.
    #[track_caller]
    pub fn worker_of(&self, seat: u64, generation: u64) -> Worker {
        until("the worker is there", || {
            let workers = self.desk.workers.lock().expect("no panic");
            let here = |w: &&Worker| w.seat == seat && w.generation >= generation && !w.is_over();
            // A binary that only shows that it is fit has a bus of its own.
            let ours = workers.first()?.master();
            let mine = workers.iter().filter(here).filter(|w| w.master() == ours);
            mine.max_by_key(|w| w.generation).cloned()
        })
    }

    /// The worker that comes after this one in its seat.
    #[track_caller]
    pub fn successor(&self, of: &Worker) -> Worker {
        self.worker_of(of.seat, of.generation + 1)
    }

    /// How many lines a process of the bus would see: waits until that many are listed.
    #[track_caller]
    pub fn lists(&self, by: &Worker, processes: usize) -> Vec<Value> {
        until("all are listed", || {
            let peers = by.ok(json!({ "do": "peers" }));
            let peers = peers.as_array().expect("a list").clone();
            (peers.len() == processes).then_some(peers)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(mut master) = self.master.take() else {
            // Somebody else's child: nobody but us would end it.
            if self.desk.has_master.load(Relaxed) {
                kill(self.pid(), SIGTERM);
            }
            return;
        };
        kill(master.id() as i32, SIGTERM);
        let begun = Instant::now();
        while master.try_wait().expect("our child").is_none() {
            if begun.elapsed() > DEADLINE {
                let _ = master.kill();
            }
            thread::park_timeout(std::time::Duration::from_millis(5));
        }
        if thread::panicking() {
            eprintln!("the cluster said:\n{}", self.log());
        }
    }
}

/// Hears whoever has come to the desk.
fn attend(desk: &Desk, stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let Some(Ok(line)) = lines.next() else { return };
    let hello: Value = serde_json::from_str(&line).expect("JSON");
    if hello["master"].is_number() {
        *desk.master.lock().expect("no panic") = Some(hello);
        desk.has_master.store(true, Relaxed);
        desk.changed.notify_all();
        // It says nothing more. An upgrade closes the connection, too.
        let _ = lines.next();
        desk.has_master.store(false, Relaxed);
        return;
    }
    let number = |name: &str| hello[name].as_u64().expect("a number");
    let worker = Worker {
        seat: number("worker"),
        generation: number("generation"),
        pid: number("pid") as i32,
        id: hello["id"].as_str().expect("text").to_owned(),
        shared: Arc::new(Said {
            state: Mutex::default(),
            changed: Condvar::new(),
            line: Mutex::new(stream),
        }),
        hello,
    };
    let shared = worker.shared.clone();
    desk.workers.lock().expect("no panic").push(worker);
    for line in lines.map_while(Result::ok) {
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let mut state = shared.state.lock().expect("no panic");
        match said["n"].as_u64() {
            Some(n) => _ = state.answers.insert(n, said),
            None => state.events.push(said),
        }
        shared.changed.notify_all();
    }
    shared.state.lock().expect("no panic").is_over = true;
    shared.changed.notify_all();
}

impl Worker {
    /// Its master's name on the bus.
    pub fn master(&self) -> &str {
        self.id.split(':').next().expect("an id")
    }

    /// Tells it to do something, and does not wait; [`answer`](Self::answer) does.
    #[track_caller]
    pub fn begin(&self, mut command: Value) -> u64 {
        let n = {
            let mut state = self.shared.state.lock().expect("no panic");
            state.commands += 1;
            state.commands
        };
        command["n"] = n.into();
        let mut line = self.shared.line.lock().expect("no panic");
        // One that has died is seen by its answer, which does not come.
        let _ = writeln!(line, "{command}");
        n
    }

    /// What came of a command: its result, or what is wrong.
    #[track_caller]
    pub fn answer(&self, n: u64) -> Result<Value, String> {
        let mut state = self.shared.state.lock().expect("no panic");
        let begun = Instant::now();
        loop {
            if let Some(answer) = state.answers.remove(&n) {
                return match answer["error"].as_str() {
                    Some(error) => Err(error.to_owned()),
                    None => Ok(answer["ok"].clone()),
                };
            }
            let left = DEADLINE.checked_sub(begun.elapsed());
            let left = left.unwrap_or_else(|| panic!("worker {} does not answer", self.seat));
            assert!(!state.is_over, "worker {} is gone", self.seat);
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .expect("no panic")
                .0;
        }
    }

    /// Tells it to do something, and says what came of it.
    #[track_caller]
    pub fn tell(&self, command: Value) -> Result<Value, String> {
        let n = self.begin(command);
        self.answer(n)
    }

    /// The same, where nothing may go wrong.
    #[track_caller]
    pub fn ok(&self, command: Value) -> Value {
        let shown = command.to_string();
        self.tell(command)
            .unwrap_or_else(|error| panic!("worker {}, {shown}: {error}", self.seat))
    }

    /// What it has said by itself so far: messages (`got`) and comings and goings (`presence`).
    pub fn events(&self) -> Vec<Value> {
        self.shared.state.lock().expect("no panic").events.clone()
    }

    /// The payloads of the messages that it has got on a topic so far.
    pub fn got(&self, topic: &str) -> Vec<String> {
        let events = self.events();
        let got = events.iter().map(|event| &event["got"]);
        let on_topic = got.filter(|message| message["topic"] == topic);
        on_topic
            .map(|message| message["payload"].as_str().expect("text").to_owned())
            .collect()
    }

    /// Waits until it has said something of which `wanted` makes something.
    #[track_caller]
    pub fn hears<T>(&self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        until(what, || self.events().iter().find_map(&wanted))
    }

    /// Waits until it has got this payload on this topic.
    #[track_caller]
    pub fn receives(&self, topic: &str, payload: &str) {
        until(
            &format!("worker {} gets {payload:?} on {topic}", self.seat),
            || {
                let got = self.got(topic);
                got.iter().any(|one| one == payload).then_some(())
            },
        );
    }

    /// Has its connection to the desk ended?
    pub fn is_over(&self) -> bool {
        self.shared.state.lock().expect("no panic").is_over
    }
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().expect("text").parse().expect("an address")
}
