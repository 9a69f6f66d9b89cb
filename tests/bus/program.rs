//! The program that the tests of the bus run: a master and its workers that do what a test tells them.
//!
//! Each worker connects to the test's desk ([`DESK`]) and says who it is, in one line of JSON. From then on
//! every line that it gets is a command, which it answers in a line with the command's `n`: `ok` and what
//! came of it, or `error`. Whatever else it has to say comes in lines of its own: `got`, a message;
//! `presence`, a coming or going.
//!
//! | `do` | with | answer |
//! | --- | --- | --- |
//! | `subscribe` | `pattern`, `then`: `tell` (usual), `echo`, `hold`, `count`; `queue`, `cut` | once it is in force |
//! | `counted` | `pattern` | of one with `count`: `messages`, `missed`, `cut`, `disorder`, `last` by sender |
//! | `unsubscribe` | `pattern` | |
//! | `publish` | `topic`, `payload`; `times`: so many, their numbers (from `first`, usually 1) after the payload | once it is in the line |
//! | `send` | `to`, and the same | |
//! | `request` | `to`, `topic`, `payload`, `ms` | `payload` and `from` |
//! | `answer` | `payload`: to all that `hold` has kept | |
//! | `host`, `unhost` | `application`, `description` | |
//! | `call` | `application`, `action`, `payload`, `ms`; `balance`: `round-robin` | `payload` and `from` |
//! | `tell` | `application`, `payload` | |
//! | `offer` | `function`: adds up a list of numbers | |
//! | `run` | `on`, `function`, `numbers`, `ms` | `result` |
//! | `peers`, `watch` | | the list; comings and goings from now on |
//! | `branch` | `desk`: of the cluster below | its `pid` |
//! | `take-streams`, `stream` | `topic`; `to`, `topic` | see [`streams`](super::streams) |
//! | `write`, `read`, `streamed` | `bytes` | |
//! | `hack` | `what`, `times` | see [`hostile`](super::hostile) |
//! | `block` | `until`: an address | keeps the loop until the connection to it ends |
//! | `exit` | `code` | |
//! | `be-ready` | of a successor, in a cluster that is `patient` | |
//!
//! `to` is `subscribers`, `everyone`, `siblings`, `ancestors`, `parent`, `children`, `grand-master`,
//! `worker N`, `route ID ID …` or `ID ID …`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
    rc::Rc,
    sync::OnceLock,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use pointsman::{
    Cluster,
    bus::{Balance, Bus, BusError, Message, Overflow, ProcessId, Subscription, To},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::{Notify, mpsc},
    task::{JoinHandle, spawn_local},
};
use tower_service::Service;

use super::{hostile, streams::Streaming};

/// Where the test's desk is; set for the master and all below it.
pub const DESK: &str = "BUS_TEST_DESK";
/// What the cluster is to be: a list of `name=value`.
pub const SHAPE: &str = "BUS_TEST_SHAPE";

/// The seat of a master's own code, in a cluster where it `speaks`.
pub const MASTER: u64 = 900;

/// The master's.
static LINE_TO_THE_DESK: OnceLock<TcpStream> = OnceLock::new();

/// Answers every request.
#[derive(Clone)]
struct App;

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        std::future::ready(Ok(Response::new(Full::from("served\n"))))
    }
}

/// Is this process one that a test has started, and not the test?
pub fn is_asked_for() -> bool {
    std::env::var_os(DESK).is_some()
}

/// The whole life of a master, or of a worker.
pub fn run() -> ExitCode {
    let shape = std::env::var(SHAPE).unwrap_or_default();
    let mut cluster = Cluster::new()
        .listen("127.0.0.1:0")
        .admin("127.0.0.1:0")
        .control(None)
        .drain_timeout(Duration::from_secs(5))
        .on_ready(|ready| {
            let line = json!({
                "master": std::process::id(),
                "listen": ready.listen[0].to_string(),
                "admin": ready.admin.expect("asked for").to_string(),
            });
            // Kept open for as long as the master lives: its end is the end of the connection.
            let mut desk = connect();
            writeln!(desk, "{line}").expect("the test listens");
            let _ = LINE_TO_THE_DESK.set(desk);
        });
    for (name, value) in shape.split_whitespace().filter_map(|s| s.split_once('=')) {
        cluster = match name {
            "workers" => cluster.workers(value.parse().expect("a number")),
            "master-serves" => cluster.master_serves(value == "true"),
            "master-speaks" => cluster.on_master(|master| {
                spawn_local(async move { Puppet::begin(master.bus(), MASTER, 1).await });
            }),
            // Looked at by the workers.
            "patient" => cluster,
            "control" => cluster.control(Some(value.into())),
            "hang-kill" => {
                cluster.hang_kill(Duration::from_millis(value.parse().expect("milliseconds")))
            }
            "backoff" => {
                cluster.backoff_limit(Duration::from_millis(value.parse().expect("milliseconds")))
            }
            other => panic!("a shape has no {other}"),
        };
    }
    let served = cluster.serve(|worker| async move {
        Puppet::begin(worker.bus(), worker.id().into(), worker.generation()).await;
        App
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn connect() -> TcpStream {
    let desk = std::env::var(DESK).expect("set by the test");
    TcpStream::connect(desk).expect("the test listens")
}

/// A worker that does as it is told.
struct Puppet {
    bus: Bus,
    say: mpsc::UnboundedSender<Value>,
    subscriptions: RefCell<HashMap<String, JoinHandle<()>>>,
    tallies: RefCell<HashMap<String, Rc<RefCell<Tally>>>>,
    /// Whatever is to go on until the end.
    kept: RefCell<Vec<Box<dyn std::any::Any>>>,
    /// Requests that are not to be answered.
    held: RefCell<Vec<Message>>,
    streaming: Rc<Streaming>,
    /// Told when it may be ready.
    may_be_ready: Notify,
}

/// What a subscription with `count` has got.
#[derive(Default)]
struct Tally {
    messages: u64,
    missed: u64,
    cut: u64,
    /// Messages that came after one of the same sender with a higher number.
    disorder: u64,
    last: BTreeMap<String, u64>,
}

type Answer = Result<Value, BusError>;

impl Puppet {
    /// Connects to the desk and begins to listen to it.
    async fn begin(bus: Bus, seat: u64, generation: u64) {
        let stream = connect();
        stream.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::TcpStream::from_std(stream).expect("a runtime");
        let (read, mut write) = stream.into_split();
        let (say, mut said) = mpsc::unbounded_channel::<Value>();
        spawn_local(async move {
            while let Some(line) = said.recv().await {
                let line = format!("{line}\n");
                if write.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let id = bus.id().await.expect("a bus");
        let hello = json!({
            "worker": seat,
            "generation": generation,
            "pid": std::process::id(),
            "id": id.to_string(),
            "grand_master": bus.grand_master().await.expect("a bus").to_string(),
            "parent": bus.parent().await.expect("a bus").map(|id| id.to_string()),
        });
        let _ = say.send(hello);
        let puppet = Rc::new(Self {
            bus,
            say,
            subscriptions: RefCell::default(),
            tallies: RefCell::default(),
            kept: RefCell::default(),
            held: RefCell::default(),
            streaming: Rc::default(),
            may_be_ready: Notify::new(),
        });
        let patient = std::env::var(SHAPE).is_ok_and(|shape| shape.contains("patient=true"));
        let waits = patient && generation > 1;
        let obeying = puppet.clone();
        spawn_local(async move {
            let puppet = obeying;
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let command: Value = serde_json::from_str(&line).expect("JSON");
                let this = puppet.clone();
                let waits = ["request", "call", "run"].contains(&text(&command, "do"));
                let doing = async move {
                    let n = command["n"].clone();
                    let answer = match this.obey(&command).await {
                        Ok(value) => json!({ "n": n, "ok": value }),
                        Err(error) => json!({ "n": n, "error": error.to_string() }),
                    };
                    let _ = this.say.send(answer);
                };
                if waits {
                    spawn_local(doing);
                } else {
                    doing.await;
                }
            }
        });
        if waits {
            puppet.may_be_ready.notified().await;
        }
    }

    async fn obey(self: &Rc<Self>, command: &Value) -> Answer {
        let bus = &self.bus;
        let deadline = Duration::from_millis(command["ms"].as_u64().unwrap_or(10_000));
        let payload = || text(command, "payload").to_owned();
        match text(command, "do") {
            "subscribe" => self.subscribe(command).await,
            "unsubscribe" => {
                let pattern = text(command, "pattern");
                let task = self.subscriptions.borrow_mut().remove(pattern);
                if let Some(task) = task {
                    task.abort();
                    // Its subscription is dropped when it is.
                    let _ = task.await;
                }
                bus.flush().await.map(|()| Value::Null)
            }
            "counted" => {
                let tallies = self.tallies.borrow();
                let tally = tallies[text(command, "pattern")].borrow();
                Ok(json!({
                    "messages": tally.messages,
                    "missed": tally.missed,
                    "cut": tally.cut,
                    "disorder": tally.disorder,
                    "last": tally.last,
                }))
            }
            "publish" | "send" => {
                let to = command["to"].as_str().map_or(To::Subscribers, address);
                let topic = text(command, "topic");
                let Some(times) = command["times"].as_u64() else {
                    bus.send(to, topic, payload())?;
                    return bus.flush().await.map(|()| Value::Null);
                };
                let first = command["first"].as_u64().unwrap_or(1);
                for i in first..first + times {
                    let numbered = format!("{}{i}", payload());
                    while let Err(BusError::Full) = bus.send(to.clone(), topic, numbered.clone()) {
                        bus.flush().await?;
                    }
                }
                bus.flush().await.map(|()| Value::Null)
            }
            "request" => {
                let to = address(text(command, "to"));
                let answer = bus
                    .request(to, text(command, "topic"), payload(), deadline)
                    .await?;
                Ok(shown(&answer))
            }
            "host" => {
                let application = text(command, "application").to_owned();
                let mut hosted = bus.host(&application, &command["description"]).await?;
                let this = self.clone();
                let task = spawn_local(async move {
                    while let Some(Ok(message)) = hosted.next().await {
                        let _ = this.say.send(json!({ "got": shown(&message) }));
                        let answer = format!("{}: {}", message.action(), payload_of(&message));
                        let _ = message.reply(answer);
                    }
                });
                let mut tasks = self.subscriptions.borrow_mut();
                tasks.insert(format!("application {application}"), task);
                Ok(Value::Null)
            }
            "unhost" => {
                let name = format!("application {}", text(command, "application"));
                let task = self.subscriptions.borrow_mut().remove(&name);
                if let Some(task) = task {
                    task.abort();
                    let _ = task.await;
                }
                bus.flush().await.map(|()| Value::Null)
            }
            "call" => {
                let (application, action) = (text(command, "application"), text(command, "action"));
                let balance = match text(command, "balance") {
                    "round-robin" => Balance::RoundRobin,
                    _ => Balance::LeastLoaded,
                };
                let answer = bus
                    .call_with(balance, application, action, payload(), deadline)
                    .await?;
                Ok(shown(&answer))
            }
            "tell" => {
                bus.tell(text(command, "application"), payload())?;
                bus.flush().await.map(|()| Value::Null)
            }
            "take-streams" => {
                let offered = bus.subscribe(text(command, "topic")).await?;
                spawn_local(self.streaming.clone().take(offered));
                Ok(Value::Null)
            }
            "stream" => {
                let to = address(text(command, "to"));
                let stream = bus.open_stream(to, text(command, "topic"), "", deadline);
                self.streaming.hold(stream.await?);
                Ok(Value::Null)
            }
            "write" => {
                let bytes = command["bytes"].as_u64().expect("a number");
                self.streaming.clone().write(bytes);
                Ok(Value::Null)
            }
            "read" => {
                self.streaming.clone().read();
                Ok(Value::Null)
            }
            "streamed" => Ok(self.streaming.report()),
            "hack" => {
                let times = command["times"].as_u64().unwrap_or(1);
                let victim = command["victim"]
                    .as_str()
                    .map(|id| id.parse().expect("an id"));
                Ok(hostile::send(text(command, "what"), victim, times).into())
            }
            "offer" => {
                let sum = |numbers: Vec<i64>| async move {
                    match numbers.is_empty() {
                        true => Err("nothing to add up"),
                        false => Ok(numbers.into_iter().sum::<i64>()),
                    }
                };
                let offered = bus.offer(text(command, "function"), sum).await?;
                self.kept.borrow_mut().push(Box::new(offered));
                Ok(Value::Null)
            }
            "run" => {
                let on: ProcessId = text(command, "on").parse().expect("an id");
                let numbers: Vec<i64> =
                    serde_json::from_value(command["numbers"].clone()).expect("numbers");
                let function = text(command, "function");
                let sum: i64 = bus.run_in_node(on, function, &numbers, deadline).await?;
                Ok(json!({ "result": sum }))
            }
            "peers" => Ok(serde_json::to_value(bus.peers().await?).expect("plain data")),
            "watch" => {
                let mut presence = bus.presence().await?;
                let say = self.say.clone();
                spawn_local(async move {
                    while let Some(event) = presence.next().await {
                        let _ = say.send(json!({ "presence": event }));
                    }
                });
                Ok(Value::Null)
            }
            "branch" => {
                let program = std::env::current_exe().expect("this program");
                let mut below = std::process::Command::new(program);
                below.env(DESK, text(command, "desk"));
                below.env(SHAPE, text(command, "shape"));
                bus.branch(&mut below)?;
                let child = below.spawn()?;
                Ok(json!({ "pid": child.id() }))
            }
            "block" => {
                let mut gate = TcpStream::connect(text(command, "until"))?;
                let _ = gate.read(&mut [0]);
                Ok(Value::Null)
            }
            "answer" => {
                for held in self.held.borrow_mut().drain(..) {
                    held.reply(payload())?;
                }
                Ok(Value::Null)
            }
            "be-ready" => {
                self.may_be_ready.notify_one();
                Ok(Value::Null)
            }
            "exit" => std::process::exit(command["code"].as_i64().unwrap_or(0) as i32),
            other => panic!("no command is called {other:?}"),
        }
    }

    async fn subscribe(self: &Rc<Self>, command: &Value) -> Answer {
        let pattern = text(command, "pattern").to_owned();
        let mut subscribe = self.bus.subscription(&pattern);
        if let Some(queue) = command["queue"].as_u64() {
            subscribe = subscribe.queue(queue as usize);
        }
        if command["cut"].as_bool() == Some(true) {
            subscribe = subscribe.overflow(Overflow::Cut);
        }
        let subscription = subscribe.open().await?;
        let tally = Rc::<RefCell<Tally>>::default();
        let mut tallies = self.tallies.borrow_mut();
        tallies.insert(pattern.clone(), tally.clone());
        let then = command["then"].as_str().unwrap_or("tell").to_owned();
        let task = spawn_local(self.clone().listen(subscription, then, tally));
        self.subscriptions.borrow_mut().insert(pattern, task);
        Ok(Value::Null)
    }

    async fn listen(
        self: Rc<Self>,
        mut subscription: Subscription,
        then: String,
        tally: Rc<RefCell<Tally>>,
    ) {
        while let Some(next) = subscription.next().await {
            let message = match next {
                Ok(message) => message,
                Err(cut) => {
                    let mut tally = tally.borrow_mut();
                    tally.cut += 1;
                    tally.missed += cut.missed;
                    return;
                }
            };
            match &then[..] {
                "count" => tally.borrow_mut().add(&message),
                "echo" => {
                    let _ = message.reply(format!("echo {}", payload_of(&message)));
                }
                "hold" => {
                    let _ = self.say.send(json!({ "got": shown(&message) }));
                    self.held.borrow_mut().push(message);
                }
                _ => _ = self.say.send(json!({ "got": shown(&message) })),
            }
        }
    }
}

impl Tally {
    fn add(&mut self, message: &Message) {
        self.messages += 1;
        self.missed += message.missed();
        let payload = payload_of(message);
        let digits = payload.trim_start_matches(|c: char| !c.is_ascii_digit());
        if let Ok(number) = digits.parse::<u64>() {
            let last = self.last.entry(message.from().to_string()).or_default();
            self.disorder += u64::from(number <= *last);
            *last = number;
        }
    }
}

fn text<'a>(command: &'a Value, name: &str) -> &'a str {
    command[name].as_str().unwrap_or_default()
}

fn payload_of(message: &Message) -> String {
    String::from_utf8_lossy(&message.bytes()).into_owned()
}

fn shown(message: &Message) -> Value {
    let path = message.path();
    json!({
        "from": message.from().to_string(),
        "topic": message.name(),
        "action": message.action(),
        "payload": payload_of(message),
        "missed": message.missed(),
        "is_request": message.is_request(),
        "path": path.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn address(text: &str) -> To {
    let ids = |words: &str| -> Vec<ProcessId> {
        let ids = words.split_whitespace().map(str::parse);
        ids.collect::<Result<_, _>>().expect("ids")
    };
    match text {
        "subscribers" => To::Subscribers,
        "everyone" => To::Everyone,
        "siblings" => To::Siblings,
        "ancestors" => To::Ancestors,
        "parent" => To::Parent,
        "children" => To::Children,
        "grand-master" => To::GrandMaster,
        other => match other.split_once(' ') {
            Some(("worker", seat)) => To::Worker(seat.parse().expect("a seat")),
            Some(("route", hops)) => To::Route(ids(hops)),
            _ => To::Processes(ids(other)),
        },
    }
}
